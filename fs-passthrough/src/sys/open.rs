//! The seam through which everything is opened and created.
//!
//! A name is one component, resolved below a directory descriptor without following links; what it
//! resolved to is checked by the caller on the descriptor. A privileged helper can stand here.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

use super::handle::FileHandle;

/// The file that `name` in `dir` leads to on the same mount, without opening it.
///
/// # Errors
/// ENOENT when there is none, EXDEV when it is a mount point.
pub(crate) fn find(dir: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(dir, name, LOOK, Mode::empty(), BENEATH | ResolveFlags::NO_XDEV)?)
}

/// As [`find`], and a mount point leads to what is mounted there. A mount on demand is not made.
pub(crate) fn find_across(dir: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(dir, name, LOOK, Mode::empty(), BENEATH)?)
}

/// As [`find`], from what the kernel has in memory alone; `None` when that does not tell.
pub(crate) fn find_cached(dir: impl AsFd, name: &CStr) -> Option<io::Result<OwnedFd>> {
    let resolve = BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::CACHED;
    match rustix::fs::openat2(dir, name, LOOK, Mode::empty(), resolve) {
        // Before Linux 5.12 the flag is unknown.
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INVAL) => None,
        found => Some(found.map_err(io::Error::from)),
    }
}

/// The directory above `dir`: the one step that leaves a directory, and the caller checks where to.
pub(crate) fn find_parent(dir: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, c"..", flags, Mode::empty())?)
}

/// Creates and opens a file that did not exist.
///
/// # Errors
/// EEXIST when it did.
pub(crate) fn create(
    dir: impl AsFd,
    name: &CStr,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CREATE | OFlags::EXCL | ALWAYS;
    Ok(rustix::fs::openat2(dir, name, flags, mode, BENEATH)?)
}

/// Creates and opens a file without a name in `dir`.
pub(crate) fn create_unnamed(dir: impl AsFd, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    // O_NOFOLLOW has no meaning here, and O_EXCL would forbid to name the file later.
    let flags = (flags - OFlags::EXCL) | OFlags::TMPFILE | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::openat2(dir, c".", flags, mode, BENEATH)?)
}

/// Opens a regular file or directory by its handle. The caller knows by an earlier look at the same
/// inode that it is one.
pub(crate) fn by_handle(
    mount: impl AsFd,
    handle: &FileHandle,
    flags: OFlags,
) -> io::Result<OwnedFd> {
    handle.open(mount, flags | ALWAYS)
}

/// Opens a regular file or directory again, by an O_PATH descriptor of it.
///
/// `proc_fd` is `/proc/self/fd`, opened at start.
pub(crate) fn again(proc_fd: impl AsFd, path_fd: impl AsFd, flags: OFlags) -> io::Result<OwnedFd> {
    let name = fd_name(path_fd);
    // The link in /proc must be followed: it leads to the very file, whatever its name is now.
    let flags = (flags | ALWAYS) - OFlags::NOFOLLOW;
    Ok(rustix::fs::openat(proc_fd, name.as_c_str(), flags, Mode::empty())?)
}

/// Gives the file of `fd` another name.
pub(crate) fn link(
    proc_fd: impl AsFd,
    fd: impl AsFd,
    dir: impl AsFd,
    name: &CStr,
) -> io::Result<()> {
    match rustix::fs::linkat(&fd, c"", &dir, name, AtFlags::EMPTY_PATH) {
        // Without CAP_DAC_READ_SEARCH the kernel says that there is no such file.
        Err(rustix::io::Errno::NOENT) => {}
        done => return Ok(done?),
    }
    let fd_name = fd_name(fd);
    Ok(rustix::fs::linkat(proc_fd, fd_name.as_c_str(), dir, name, AtFlags::SYMLINK_FOLLOW)?)
}

/// The name of a descriptor in `/proc/self/fd`.
pub(crate) fn fd_name(fd: impl AsFd) -> FdName {
    let mut name = FdName { bytes: [0; 12] };
    let mut number = fd.as_fd().as_raw_fd();
    let mut at = name.bytes.len() - 1;
    loop {
        at -= 1;
        name.bytes[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    name.bytes.copy_within(at.., 0);
    name
}

/// A descriptor's number as a C string.
pub(crate) struct FdName {
    bytes: [u8; 12],
}

impl FdName {
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).expect("a NUL follows the digits")
    }
}

/// A file is looked at, not opened.
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// Every opened file: no terminal becomes ours, no child inherits it, no lease or fifo blocks us.
const ALWAYS: OFlags =
    OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NOCTTY).union(OFlags::NONBLOCK);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_named_by_its_number() {
        let fd = std::fs::File::open("/").unwrap();
        assert_eq!(fd_name(&fd).as_c_str().to_str().unwrap(), fd.as_raw_fd().to_string());
    }

    #[test]
    fn a_link_is_found_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let dir = std::fs::File::open(dir.path()).unwrap();
        let found = super::super::stat::Stat::of(find(&dir, c"link").unwrap()).unwrap();
        assert_eq!(found.attr.file_type(), fsrv::Attr::SYMLINK);
    }
}
