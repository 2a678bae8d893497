//! The system calls of this module, on buffers that own their memory.

use std::{cell::Cell, io, os::fd::AsRawFd};

use rustix::{
    fs::Mode,
    process::umask,
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{File, size_limit};
use crate::mem::{InBuf, OutBuf};

/// `RWF_NOWAIT`: answer only what needs no waiting.
pub(super) const NOWAIT: i32 = libc::RWF_NOWAIT;

/// `RWF_APPEND`: write at the end of the file, wherever that is by now.
pub(super) const APPEND: i32 = libc::RWF_APPEND;

/// One `preadv2` into the rest of `out`. Returns the bytes read, which `out` then counts.
pub(super) fn preadv2(file: &File, out: &mut OutBuf, at: u64, flags: i32) -> io::Result<usize> {
    let room = out.slices();
    let (iov, count) = (room.as_slice().as_ptr(), room.count());
    // SAFETY: `room` is memory that `out` owns and nobody else makes a reference to during this call.
    let n = unsafe { libc::preadv2(file.as_raw_fd(), iov, count, offset(at)?, flags) };
    let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    out.advance(n);
    Ok(n)
}

/// One `pwritev2` of all that is left in `data`. Returns the bytes written; `data` is unchanged.
pub(super) fn pwritev2(file: &File, data: &InBuf, at: u64, flags: i32) -> io::Result<usize> {
    let bytes = data.slices();
    let (iov, count) = (bytes.as_slice().as_ptr(), bytes.count());
    let at = offset(at)?;
    size_limit::guarded(|| {
        // SAFETY: `bytes` is memory that `data` owns, and the kernel only reads it.
        let n = unsafe { libc::pwritev2(file.as_raw_fd(), iov, count, at, flags) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    })
}

/// `offset` as the kernel counts it; more than 2^63 bytes into a file there is nothing.
pub(super) fn offset(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

thread_local!(static OWNS_UMASK: Cell<bool> = const { Cell::new(false) });

/// Gives this thread a umask of its own, 0: that of the process belongs to whoever embeds us.
pub(crate) fn own_umask() -> io::Result<()> {
    // SAFETY: with CLONE_FS alone, this thread gets its own root, working directory and umask, and no
    // descriptor is closed or shared.
    unsafe { unshare_unsafe(UnshareFlags::FS) }?;
    umask(Mode::empty());
    OWNS_UMASK.set(true);
    Ok(())
}

/// Whether this thread, a worker's or one of its pool's, has a umask of its own, which is 0 and may be
/// changed for the time of a call.
pub fn owns_umask() -> bool {
    OWNS_UMASK.get()
}
