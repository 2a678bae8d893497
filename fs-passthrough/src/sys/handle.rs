//! File handles: they name a file of a mount without holding it open (`open_by_handle_at(2)`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use rustix::fs::OFlags;

/// Bytes of a handle (`MAX_HANDLE_SZ`).
const MAX: usize = 128;

/// Handles of up to so many bytes are kept inline: those of ext4 and XFS have 8 to 12, those of
/// tmpfs 12.
const INLINE: usize = 16;

/// FILEID_INO32_GEN of `<linux/exportfs.h>`, the type of ext4 and tmpfs.
const FILEID_INO32_GEN: i32 = 1;

/// The name of a file for the kernel.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FileHandle {
    kind: i32,
    bytes: Bytes,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Bytes {
    Inline { len: u8, bytes: [u8; INLINE] },
    Boxed(Box<[u8]>),
}

/// `struct file_handle` with room for the largest.
#[repr(C)]
struct Raw {
    handle_bytes: u32,
    handle_type: i32,
    handle: [u8; MAX],
}

impl FileHandle {
    /// The handle of the file that `fd` refers to.
    ///
    /// # Errors
    /// EOPNOTSUPP when the filesystem has none.
    pub(crate) fn of(fd: impl AsFd) -> io::Result<Self> {
        let mut raw = Raw { handle_bytes: MAX as u32, handle_type: 0, handle: [0; MAX] };
        let mut mount_id = 0;
        // SAFETY: `raw` is a `file_handle` with room for `handle_bytes`, the path is a C string, and
        // `mount_id` takes an int.
        let result = unsafe {
            libc::name_to_handle_at(
                fd.as_fd().as_raw_fd(),
                c"".as_ptr(),
                (&raw mut raw).cast(),
                &mut mount_id,
                libc::AT_EMPTY_PATH,
            )
        };
        super::check(result.into())?;
        let used = raw.handle.get(..raw.handle_bytes as usize).unwrap_or(&raw.handle);
        Ok(Self { kind: raw.handle_type, bytes: Bytes::new(used) })
    }

    /// Opens the file. `mount` is any open descriptor, not an O_PATH one, on its mount.
    ///
    /// # Errors
    /// ESTALE when the file is gone, EPERM without CAP_DAC_READ_SEARCH.
    pub(crate) fn open(&self, mount: impl AsFd, flags: OFlags) -> io::Result<OwnedFd> {
        let used = self.bytes.as_slice();
        let mut raw =
            Raw { handle_bytes: used.len() as u32, handle_type: self.kind, handle: [0; MAX] };
        raw.handle[..used.len()].copy_from_slice(used);
        let flags = (flags | OFlags::CLOEXEC).bits().cast_signed();
        // SAFETY: `raw` is a whole `file_handle`, which the call only reads.
        let fd = unsafe {
            libc::open_by_handle_at(mount.as_fd().as_raw_fd(), (&raw mut raw).cast(), flags)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just returned this descriptor to us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The generation of the inode: it differs between two files that had one inode number.
    pub(crate) fn generation(&self) -> u64 {
        let bytes = self.bytes.as_slice();
        let at = match (self.kind, bytes.len()) {
            // ext4: inode number, generation. tmpfs: generation, inode number.
            (FILEID_INO32_GEN, 8) => 4,
            (FILEID_INO32_GEN, 12) => 0,
            _ => return u64::from(fnv(bytes)),
        };
        let generation = bytes[at..at + 4].try_into().expect("four bytes");
        u32::from_ne_bytes(generation).into()
    }
}

impl Bytes {
    fn new(used: &[u8]) -> Self {
        match u8::try_from(used.len()) {
            Ok(len) if used.len() <= INLINE => {
                let mut bytes = [0; INLINE];
                bytes[..used.len()].copy_from_slice(used);
                Self::Inline { len, bytes }
            }
            _ => Self::Boxed(used.into()),
        }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Self::Boxed(bytes) => bytes,
        }
    }
}

/// A short hash for handles of unknown form: the whole handle names one life of an inode.
fn fnv(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0x811c_9dc5, |hash: u32, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_opens_the_file_it_was_taken_from() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let mount = std::fs::File::open(dir.path()).unwrap();
        let handle = FileHandle::of(std::fs::File::open(&path).unwrap()).unwrap();
        let file = handle.open(&mount, OFlags::RDONLY).unwrap();
        assert_eq!(std::io::read_to_string(std::fs::File::from(file)).unwrap(), "content");
        std::fs::remove_file(&path).unwrap();
        let error = handle.open(&mount, OFlags::RDONLY).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
    }
}
