//! Where a mount is now: a directory above its mount point may have been renamed.

use std::{
    ffi::OsString,
    fs,
    io::{self, ErrorKind},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::point::MountId;

/// Where a mount is.
#[derive(Debug)]
pub(super) enum Found {
    At(PathBuf),
    /// There, below another one.
    Covered(PathBuf),
    Nowhere,
}

/// Looks for mount `id`, first at `expected`.
pub(super) fn find(id: &MountId, expected: &Path) -> io::Result<Found> {
    if on_top(expected)?.is_some_and(|top| top.is_same(id)) {
        return Ok(Found::At(expected.to_owned()));
    }
    let mounts = fs::read("/proc/self/mountinfo")?;
    let Some(path) = mounts.split(|&byte| byte == b'\n').find_map(|line| place(line, id)) else {
        return Ok(Found::Nowhere);
    };
    Ok(match on_top(&path)? {
        Some(top) if top.is_same(id) => Found::At(path),
        // The numbers in the list are used again: this is another mount, in the place of ours.
        Some(top) if (top.listed, top.device) == (id.listed, id.device) => Found::Nowhere,
        Some(_) => Found::Covered(path),
        // It moved again, or went, while it was looked for.
        None => {
            let message = format!("the mount point {} moves", path.display());
            return Err(io::Error::new(ErrorKind::ResourceBusy, message));
        }
    })
}

/// The mount that `path` leads to, if there is anything.
fn on_top(path: &Path) -> io::Result<Option<MountId>> {
    match MountId::at(path) {
        Ok(id) => Ok(Some(id)),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(None),
            _ => Err(error),
        },
    }
}

/// The mount point in a line of `/proc/self/mountinfo`, when that is the one of mount `id`.
fn place(line: &[u8], id: &MountId) -> Option<PathBuf> {
    let (major, minor) = id.device;
    let mut fields = line.split(|&byte| byte == b' ');
    let is_it = fields.next()? == id.listed.to_string().as_bytes()
        && fields.nth(1)? == format!("{major}:{minor}").as_bytes();
    let path = fields.nth(1)?;
    is_it.then(|| PathBuf::from(OsString::from_vec(unescaped(path))))
}

/// What the list writes as three octal digits behind a backslash.
fn unescaped(listed: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(listed.len());
    let mut rest = listed;
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| first == b'\\');
        let byte = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match byte.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                rest = &behind[3..];
            }
            None => {
                path.push(first);
                rest = behind;
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_path_is_read_as_it_was_written() {
        for (listed, path) in [
            (&b"/a\\040b\\134\\012c\\043"[..], &b"/a b\\\nc#"[..]),
            (b"/plain", b"/plain"),
            (b"/\xff\\", b"/\xff\\"),
            (b"/\\99", b"/\\99"),
        ] {
            assert_eq!(unescaped(listed), path);
        }
    }
}
