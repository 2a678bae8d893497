//! One mount over a regular file at a time.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
};

use super::MountError;

/// The lock on a regular file that is mounted over, under all its names. The process's end releases it
/// too.
#[derive(Debug)]
pub(super) struct FileLock(OwnedFd);

impl FileLock {
    /// Locks the regular file that `fd`, opened with `O_PATH`, stands for.
    pub(super) fn take(fd: &OwnedFd, path: &Path) -> Result<Self, MountError> {
        let path = || path.to_owned();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = open(format!("/proc/self/fd/{}", fd.as_raw_fd()), flags, Mode::empty())
            .map_err(|error| MountError::Unreadable { path: path(), cause: error.into() })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(Errno::WOULDBLOCK) => Err(MountError::AlreadyExported { path: path() }),
            Err(error) => Err(MountError::NotLockable { path: path(), cause: error.into() }),
        }
    }

    /// Lets another mount take the place of this one.
    pub(super) fn release(&self) {
        // Closing would not do: a child that has not yet called exec shares the descriptor. It
        // cannot fail.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        self.release();
    }
}
