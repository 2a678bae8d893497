//! Locks against processes of the host, and other servers of the same directory.

use std::{io, os::fd::AsFd};

use fsrv::types::{FileLock, LockKind};
use rustix::fs::{FlockOperation, flock};

use super::{Style, ranges::Span};
use crate::{
    descriptors::Held,
    sys::lock::{ofd_getlk, ofd_setlk},
};

/// What the host says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Granted,
    /// A process of the host is in the way.
    Refused,
}

/// The descriptor that holds the locks of one owner on one inode. The host counts them to this very
/// open file, so nobody else uses it.
pub(super) struct HostFile {
    file: Held,
    style: Style,
}

impl HostFile {
    /// Takes, changes or drops a lock. A POSIX lock that is refused leaves what was held; a flock that
    /// is refused does not, as everywhere on Linux.
    pub(super) fn set(&self, lock: &FileLock) -> io::Result<Answer> {
        let result = match self.style {
            Style::Posix => ofd_setlk(self.file.as_fd(), lock),
            Style::Flock => self.flock(lock.kind),
        };
        match result {
            Ok(()) => Ok(Answer::Granted),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EACCES) => Ok(Answer::Refused),
                _ => Err(error),
            },
        }
    }

    /// A POSIX lock of the host that is in the way.
    pub(super) fn conflict(&self, lock: &FileLock) -> io::Result<Option<FileLock>> {
        ofd_getlk(self.file.as_fd(), lock)
    }

    fn flock(&self, kind: LockKind) -> io::Result<()> {
        let operation = match kind {
            LockKind::Read => FlockOperation::NonBlockingLockShared,
            LockKind::Write => FlockOperation::NonBlockingLockExclusive,
            LockKind::Unlock => FlockOperation::Unlock,
        };
        Ok(rustix::io::retry_on_intr(|| flock(&self.file, operation))?)
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        // Closing alone drops the locks too late if a child was forked meanwhile: it has the
        // descriptor until it execs.
        let Span { start, end } = Span::ALL;
        let _ = self.set(&FileLock { start, end, kind: LockKind::Unlock, pid: 0 });
    }
}

/// Where a request gets its descriptor from when its owner has none yet. What was opened is kept for
/// the next try.
pub(super) struct Opener<F> {
    open: Option<F>,
    spare: Option<HostFile>,
    style: Style,
}

impl<F: FnOnce() -> io::Result<Held>> Opener<F> {
    pub(super) fn new(style: Style, open: F) -> Self {
        Self { open: Some(open), spare: None, style }
    }

    /// A descriptor that holds no lock.
    pub(super) fn file(&mut self) -> io::Result<HostFile> {
        if let Some(file) = self.spare.take() {
            return Ok(file);
        }
        let open = self.open.take().ok_or(io::ErrorKind::Other)?;
        Ok(HostFile { file: open()?, style: self.style })
    }

    /// Takes a descriptor back that holds no lock.
    pub(super) fn keep(&mut self, file: HostFile) {
        self.spare = Some(file);
    }
}
