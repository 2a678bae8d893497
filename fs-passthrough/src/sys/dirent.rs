//! Directory entries as the host gives them (`getdents64(2)`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// One entry of the host.
pub(crate) struct Dirent<'b> {
    pub(crate) ino: u64,
    /// The offset that continues behind this entry.
    pub(crate) next: u64,
    /// The DT_ type.
    pub(crate) kind: u8,
    pub(crate) name: &'b [u8],
    /// Bytes that the entry takes.
    pub(crate) len: usize,
}

/// Fills `buffer` with entries; 0 bytes are the end.
pub(crate) fn read(dir: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the last two arguments name the room of `buffer`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            dir.as_fd().as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    super::check(result)
}

/// The entry at the start of `bytes`: `struct linux_dirent64`. `None` at their end.
pub(crate) fn parse(bytes: &[u8]) -> Option<Dirent<'_>> {
    let (head, _) = bytes.split_at_checked(19)?;
    let len = usize::from(u16::from_ne_bytes([head[16], head[17]]));
    let name = bytes.get(19..len)?;
    let name = &name[..name.iter().position(|&byte| byte == 0)?];
    Some(Dirent {
        ino: u64::from_ne_bytes(head[..8].try_into().ok()?),
        next: u64::from_ne_bytes(head[8..16].try_into().ok()?),
        kind: head[18],
        name,
        len,
    })
}
