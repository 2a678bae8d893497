//! Locks against processes of the host, and other servers of the same directory.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use fsrv::types::{FileLock, LockKind};
use fsrv_transport::io::{Pool, close_remote};
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
    /// `None` once it is closed.
    file: Option<Held>,
    style: Style,
    /// Where it is closed when it is dropped, if it belongs to another machine or process.
    pool: Option<Arc<Pool>>,
}

impl HostFile {
    /// Takes, changes or drops a lock. A POSIX lock that is refused leaves what was held; a flock that
    /// is refused does not, as everywhere on Linux.
    pub(super) fn set(&self, lock: &FileLock) -> io::Result<Answer> {
        let result = match self.style {
            Style::Posix => ofd_setlk(self.fd()?, lock),
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
        ofd_getlk(self.fd()?, lock)
    }

    fn flock(&self, kind: LockKind) -> io::Result<()> {
        let operation = match kind {
            LockKind::Read => FlockOperation::NonBlockingLockShared,
            LockKind::Write => FlockOperation::NonBlockingLockExclusive,
            LockKind::Unlock => FlockOperation::Unlock,
        };
        let file = self.fd()?;
        Ok(rustix::io::retry_on_intr(|| flock(file, operation))?)
    }

    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        let closed = || io::Error::from_raw_os_error(libc::EBADF);
        self.file.as_ref().map(|file| file.as_fd()).ok_or_else(closed)
    }

    /// Drops the locks, and the descriptor, on this thread.
    pub(super) fn close(mut self) {
        self.unlock();
        if self.pool.is_some()
            && let Some(file) = self.file.take()
        {
            close_remote(file);
        }
    }

    /// Closing alone drops the locks too late if a child was forked meanwhile: it has the descriptor until it execs.
    fn unlock(&self) {
        let Span { start, end } = Span::ALL;
        let _ = self.set(&FileLock { start, end, kind: LockKind::Unlock, pid: 0 });
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        match self.pool.take() {
            // Unlocking what was closed fails, and nothing is left to do.
            None => self.unlock(),
            Some(pool) => {
                let Some(file) = self.file.take() else { return };
                let file = Self { file: Some(file), style: self.style, pool: Some(pool.clone()) };
                pool.later(move || file.close());
            }
        }
    }
}

/// Where a request gets its descriptor from when its owner has none yet. What was opened is kept for
/// the next try.
pub(super) struct Opener<F> {
    open: Option<F>,
    spare: Option<HostFile>,
    style: Style,
    pool: Option<Arc<Pool>>,
}

impl<F: FnOnce() -> io::Result<Held>> Opener<F> {
    pub(super) fn new(style: Style, open: F, pool: Option<Arc<Pool>>) -> Self {
        Self { open: Some(open), spare: None, style, pool }
    }

    /// A descriptor that holds no lock.
    pub(super) fn file(&mut self) -> io::Result<HostFile> {
        if let Some(file) = self.spare.take() {
            return Ok(file);
        }
        let open = self.open.take().ok_or(io::ErrorKind::Other)?;
        Ok(HostFile { file: Some(open()?), style: self.style, pool: self.pool.clone() })
    }

    /// Takes a descriptor back that holds no lock.
    pub(super) fn keep(&mut self, file: HostFile) {
        self.spare = Some(file);
    }
}
