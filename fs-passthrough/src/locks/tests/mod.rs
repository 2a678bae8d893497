//! A lock table over a real file, seen by its owners and by the host.

mod host;
mod kernel;
mod lock;
mod stress;
mod wait;

use std::{
    future::Future,
    io,
    os::fd::{AsFd, OwnedFd},
    pin::{Pin, pin},
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use fsrv::{
    Context, Fh, NodeId, Result,
    types::{FileLock, LockKind, LockOwner},
};
use rustix::fs::{Mode, OFlags};
use tempfile::NamedTempFile;

use super::{Host, LockRequest, LockTable, Style};
use crate::mutex;
use crate::sys::lock::ofd_getlk;

const NODE: NodeId = NodeId(7);
const A: LockOwner = LockOwner(1);
const B: LockOwner = LockOwner(2);
const C: LockOwner = LockOwner(3);
const D: LockOwner = LockOwner(4);

const READ: LockKind = LockKind::Read;
const WRITE: LockKind = LockKind::Write;
const UNLOCK: LockKind = LockKind::Unlock;
const END: u64 = i64::MAX.cast_unsigned();

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    table: Arc<LockTable>,
    file: NamedTempFile,
}

impl Fixture {
    fn new() -> Self {
        Self::with_table(LockTable::new())
    }

    fn with_table(table: LockTable) -> Self {
        Self { table: Arc::new(table), file: NamedTempFile::new().unwrap() }
    }

    fn open(&self) -> io::Result<OwnedFd> {
        self.opener()()
    }

    fn opener(&self) -> impl Fn() -> io::Result<OwnedFd> + Clone + Send + 'static {
        let path = self.file.path().to_owned();
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        move || Ok(rustix::fs::open(&path, flags, Mode::empty())?)
    }

    async fn setlk(&self, cx: &Context, request: &LockRequest) -> Result<()> {
        self.table.setlk(cx, request, Host::Local, self.opener()).await
    }

    fn clear(&self) {
        self.table.nodes().into_iter().for_each(|nodeid| self.table.clear(nodeid));
    }

    /// Without waiting.
    fn set(&self, request: LockRequest) -> Result<()> {
        let (cx, _) = Context::for_testing(1);
        let request = LockRequest { wait: false, ..request };
        now(self.setlk(&cx, &request))
    }

    fn get(&self, owner: LockOwner, lock: FileLock) -> FileLock {
        self.table.getlk((NODE, owner), lock, self.opener()).unwrap()
    }

    fn flush(&self, owner: LockOwner) {
        self.table.release_posix(NODE, owner);
    }

    /// What a stranger on the host finds in the way.
    fn on_host(&self, lock: FileLock) -> Option<FileLock> {
        ofd_getlk(self.open().unwrap().as_fd(), &lock).unwrap()
    }

    fn is_locked_on_host(&self) -> bool {
        self.on_host(lock(WRITE, 0, END)).is_some()
    }

    /// That nothing is left behind.
    fn assert_clean(&self) {
        assert_eq!(self.table.count(), 0);
        assert!(self.table.map().is_empty());
        assert_eq!(mutex::lock(&self.table.graph).waiting().count(), 0);
        assert!(!self.is_locked_on_host());
    }
}

fn lock(kind: LockKind, start: u64, end: u64) -> FileLock {
    FileLock { start, end, kind, pid: 0 }
}

/// A POSIX lock of `owner`, whose process and handle have the same number.
fn posix(owner: LockOwner, kind: LockKind, start: u64, end: u64) -> LockRequest {
    let pid = u32::try_from(owner.0).unwrap();
    let lock = FileLock { start, end, kind, pid };
    LockRequest { nodeid: NODE, fh: Fh(owner.0), owner, lock, style: Style::Posix, wait: true }
}

fn flock(owner: LockOwner, kind: LockKind) -> LockRequest {
    LockRequest { style: Style::Flock, ..posix(owner, kind, 0, END) }
}

/// The result of a future that does not wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match poll(pin!(future)) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("it waits"),
    }
}

fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut std::task::Context::from_waker(Waker::noop()))
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it waits for ever")
}
