//! A socket that this process was started with.
#![expect(unsafe_code, reason = "a descriptor is known by its number alone")]

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

/// A descriptor of its own for the open file that this process has under `number`.
pub(super) fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl takes any number, and refuses those that are not open.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the copy was made just now, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
