//! Open-file-description locks, which rustix has not.

#![expect(
    unsafe_code,
    reason = "fcntl takes a pointer to a struct flock, and rustix has no F_OFD_ commands"
)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use fsrv::types::{FileLock, LockKind};
use libc::{c_int, c_short};

/// `F_OFD_SETLK`: takes, changes or drops the lock of this open file.
///
/// # Errors
/// EAGAIN or EACCES when somebody else's lock stands in the way; EBADF when the descriptor is not
/// open for what the lock is about.
pub(crate) fn ofd_setlk(file: BorrowedFd<'_>, lock: &FileLock) -> io::Result<()> {
    fcntl(file, libc::F_OFD_SETLK, &mut to_flock(lock)?)
}

/// `F_OFD_GETLK`: a lock that stands in the way of this one. Its pid is 0 when the kernel has none to
/// give: for another open-file-description lock, or a process of another machine.
pub(crate) fn ofd_getlk(file: BorrowedFd<'_>, lock: &FileLock) -> io::Result<Option<FileLock>> {
    let mut flock = to_flock(lock)?;
    fcntl(file, libc::F_OFD_GETLK, &mut flock)?;
    let kind = match c_int::from(flock.l_type) {
        libc::F_RDLCK => LockKind::Read,
        libc::F_WRLCK => LockKind::Write,
        _ => return Ok(None),
    };
    let start = flock.l_start.cast_unsigned();
    let end = match flock.l_len {
        0 => i64::MAX.cast_unsigned(),
        len => start.saturating_add(len.cast_unsigned()) - 1,
    };
    let pid = u32::try_from(flock.l_pid).unwrap_or(0);
    Ok(Some(FileLock { start, end, kind, pid }))
}

fn fcntl(file: BorrowedFd<'_>, command: c_int, flock: &mut libc::flock64) -> io::Result<()> {
    loop {
        // SAFETY: both commands read and write one `struct flock64`, which `flock` lends for this call,
        // on a descriptor that `file` keeps open.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *flock) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        // A network filesystem may be interrupted by a signal that has nothing to do with the lock.
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The lock as fcntl has it: a length of 0 reaches to the end, `l_pid` must be 0.
fn to_flock(lock: &FileLock) -> io::Result<libc::flock64> {
    let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let start = i64::try_from(lock.start).map_err(invalid)?;
    let end = i64::try_from(lock.end).map_err(invalid)?;
    let l_len = match end {
        i64::MAX => 0,
        end if end < start => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
        end => end - start + 1,
    };
    let kind = match lock.kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    Ok(libc::flock64 {
        l_type: kind as c_short,
        l_whence: libc::SEEK_SET as c_short,
        l_start: start,
        l_len,
        l_pid: 0,
    })
}
