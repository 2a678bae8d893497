//! Locks on files, between the clients of a mount and against processes of the host.
//!
//! [`LockTable`] decides between the owners that one server serves, and wakes those who wait. What it
//! grants it also takes on the host, by a descriptor of the owner's own: a lock is granted when both
//! agree, and the inode stays locked meanwhile, so that nobody sees one without the other.
//!
//! The mutexes are taken in this order: the map, an inode, the wait graph; and the map not while an
//! inode is held, because a host may be slow.

mod deadlock;
mod host;
mod node;
mod ranges;
mod remote;
#[cfg(test)]
mod tests;
mod wait;

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use fsrv::{
    Context, Errno, Fh, NodeId, Result,
    op::SetLk,
    types::{FileLock, LockKind, LockOwner},
};

pub(crate) use self::remote::Host;
use self::{
    deadlock::WaitGraph,
    host::Opener,
    node::{Budget, NodeLocks, Verdict},
    ranges::Span,
};
use crate::{descriptors::Held, mutex::lock};

/// The most locks held at a time, a client could else fill our memory. Programs with record locks hold
/// thousands.
const LOCKS_MAX: usize = 64 * 1024;

/// Which kind of lock, in the sense of `man 2 flock` and `man 2 fcntl`. They do not see each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Style {
    /// Ranges of bytes, owned by a process (or an open file, by F_OFD_SETLK of the client).
    Posix,
    /// The whole file, owned by an open file.
    Flock,
}

/// What SETLK and SETLKW ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockRequest {
    /// The file.
    pub(crate) nodeid: NodeId,
    /// The handle by which it is asked for.
    pub(crate) fh: Fh,
    /// Whose lock.
    pub(crate) owner: LockOwner,
    /// The lock; of a flock only the kind counts.
    pub(crate) lock: FileLock,
    /// Which kind of lock.
    pub(crate) style: Style,
    /// Wait until it can be had.
    pub(crate) wait: bool,
}

impl From<&SetLk> for LockRequest {
    fn from(op: &SetLk) -> Self {
        let SetLk { nodeid, fh, owner, lock, flock, wait, .. } = *op;
        let style = if flock { Style::Flock } else { Style::Posix };
        Self { nodeid, fh, owner, lock, style, wait }
    }
}

impl LockRequest {
    fn span(&self) -> Span {
        match self.style {
            Style::Posix => Span { start: self.lock.start, end: self.lock.end },
            Style::Flock => Span::ALL,
        }
    }

    /// Whether both cannot be granted.
    fn excludes(&self, other: &Self) -> bool {
        let shared = LockKind::Read;
        self.style == other.style
            && self.owner != other.owner
            && self.span().overlaps(other.span())
            && (self.lock.kind != shared || other.lock.kind != shared)
    }
}

/// Names a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct WaitId(u64);

/// All locks of a mount. See the module.
pub(crate) struct LockTable {
    nodes: Mutex<HashMap<NodeId, Arc<Mutex<NodeLocks>>>>,
    graph: Mutex<WaitGraph>,
    budget: Budget,
    waiting: AtomicUsize,
    waits: AtomicU64,
}

impl LockTable {
    /// Without locks.
    pub(crate) fn new() -> Self {
        Self::with_limit(LOCKS_MAX)
    }

    fn with_limit(limit: usize) -> Self {
        Self {
            nodes: Mutex::default(),
            graph: Mutex::default(),
            budget: Budget::new(limit),
            waiting: AtomicUsize::new(0),
            waits: AtomicU64::new(0),
        }
    }

    /// GETLK: a lock in the way of `lock`, or `lock` as an unlock when there is none. Its pid is the
    /// client's for a lock of a client; that of a process of the host as the host gives it, or 0.
    ///
    /// `open` is as in [`LockTable::setlk`]. What may wait for another machine or process is not called on a worker.
    ///
    /// # Errors
    /// What `open` and the host answer.
    pub(crate) fn getlk<D: Into<Held>>(
        &self,
        (nodeid, owner): (NodeId, LockOwner),
        lock: FileLock,
        open: impl FnOnce() -> io::Result<D>,
    ) -> Result<FileLock> {
        let none = FileLock { kind: LockKind::Unlock, ..lock };
        let mut opener = Opener::new(Style::Posix, || open().map(Into::into), None);
        self.with_node(nodeid, |node| {
            if let Some(conflict) = node.conflict(owner, &lock) {
                return Ok(conflict);
            }
            // An unlock asks for the owner's own locks: those are all here.
            if lock.kind == LockKind::Unlock {
                return Ok(none);
            }
            Ok(node.host_conflict(owner, &lock, &mut opener)?.unwrap_or(none))
        })
    }

    /// SETLK and SETLKW.
    ///
    /// `open` opens the file anew when the owner has no descriptor for this file yet; a lock lives as
    /// long as that descriptor, so it must be nobody else's. For [`Style::Posix`] it should be open
    /// for reading and writing where that is allowed, because the host demands the latter for a
    /// write lock. For [`Style::Flock`] for reading only: a file open for writing cannot be executed,
    /// and scripts lock themselves.
    ///
    /// # Errors
    /// EAGAIN when it cannot be had, and waiting was not asked for; EINTR when a wait was interrupted;
    /// EDEADLK when it would never end; ENOLCK when there are too many locks or waiters; what `open`
    /// and the host answer; EIO when too many requests wait for the same filesystem, and EINTR when one that waits for it
    /// is interrupted: what it gets later is dropped, unless it changed what was held. A POSIX lock held before is then as
    /// it was. A flock is not: it was given up for the other kind, as on Linux.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is left behind.
    pub(crate) async fn setlk<D: Into<Held>>(
        self: &Arc<Self>,
        cx: &Context,
        request: &LockRequest,
        host: Host<'_>,
        open: impl FnOnce() -> io::Result<D> + Send + 'static,
    ) -> Result<()> {
        let open = move || open().map(Into::into);
        let opener = Opener::new(request.style, open, host.pool());
        let (table, asked) = (self.clone(), *request);
        let first = move || {
            table.attempt(asked, opener, |node, opener| {
                let verdict = node.grant(&asked, opener, &table.budget);
                node.wake(asked.style, asked.span(), &table.graph);
                verdict
            })
        };
        let (verdict, opener) = host.run(cx, first).await?.taken();
        match verdict? {
            Verdict::Granted => Ok(()),
            Verdict::Held(_) | Verdict::HeldByHost if request.wait => {
                self.wait(cx, request, host, opener).await
            }
            Verdict::Held(_) | Verdict::HeldByHost => Err(Errno::EAGAIN),
        }
    }

    /// Whether there is a lock on this file. Most have none, and every close asks.
    pub(crate) fn knows(&self, nodeid: NodeId) -> bool {
        self.budget.held() > 0 && self.map().contains_key(&nodeid)
    }

    /// FLUSH: drops all POSIX locks of `owner` on this file.
    pub(crate) fn release_posix(&self, nodeid: NodeId, owner: LockOwner) {
        self.with_held(nodeid, |node| {
            node.drop_posix(&self.budget, |held, _| held == owner);
            node.wake(Style::Posix, Span::ALL, &self.graph);
        });
    }

    /// RELEASE with a flock owner: drops its flock.
    pub(crate) fn release_flock(&self, nodeid: NodeId, owner: LockOwner) {
        self.with_held(nodeid, |node| {
            node.drop_flock(&self.budget, |held, _| held == owner);
            node.wake(Style::Flock, Span::ALL, &self.graph);
        });
    }

    /// RELEASE: drops what was locked by this handle and is still there.
    ///
    /// For locks of a process FLUSH has done so. But one that a client takes by F_OFD_SETLK belongs to
    /// the open file, and Linux tells us of its end by nothing but the RELEASE of the handle.
    pub(crate) fn release_handle(&self, nodeid: NodeId, fh: Fh) {
        self.with_held(nodeid, |node| {
            node.drop_posix(&self.budget, |_, held| held == fh);
            node.drop_flock(&self.budget, |_, held| held == fh);
            node.wake(Style::Posix, Span::ALL, &self.graph);
            node.wake(Style::Flock, Span::ALL, &self.graph);
        });
    }

    /// The files that have locks, or somebody who waits for one.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.map().keys().copied().collect()
    }

    /// The client is gone: drops every lock on this file, and ends every wait for one with EINTR.
    pub(crate) fn clear(&self, nodeid: NodeId) {
        self.with_node(nodeid, |node| {
            node.drop_posix(&self.budget, |_, _| true);
            node.drop_flock(&self.budget, |_, _| true);
            node.cancel();
        });
    }

    /// Locks that are held, a range each, and requests that wait for one.
    pub(crate) fn count(&self) -> u64 {
        (self.budget.held() + self.waiting.load(Ordering::Relaxed)) as u64
    }

    fn next_wait(&self) -> WaitId {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        WaitId(self.waits.fetch_add(1, Ordering::Relaxed))
    }

    fn end_wait(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    fn map(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<Mutex<NodeLocks>>>> {
        lock(&self.nodes)
    }

    /// Does something with a file that may have no locks yet.
    fn with_node<T>(&self, nodeid: NodeId, work: impl FnOnce(&mut NodeLocks) -> T) -> T {
        let node = self.map().entry(nodeid).or_default().clone();
        self.work_on(nodeid, node, work)
    }

    /// Does something with a file if it has locks. Most have none, and every close asks.
    fn with_held(&self, nodeid: NodeId, work: impl FnOnce(&mut NodeLocks)) {
        if self.budget.held() == 0 {
            return;
        }
        let node = self.map().get(&nodeid).cloned();
        if let Some(node) = node {
            self.work_on(nodeid, node, work);
        }
    }

    fn work_on<T>(
        &self,
        nodeid: NodeId,
        node: Arc<Mutex<NodeLocks>>,
        work: impl FnOnce(&mut NodeLocks) -> T,
    ) -> T {
        let mut locks = lock(&node);
        let result = work(&mut locks);
        let is_empty = locks.is_empty();
        drop(locks);
        drop(node);
        if is_empty {
            let mut map = self.map();
            // Whoever else has it comes here after us.
            let is_unused = |node: &mut Arc<Mutex<NodeLocks>>| {
                Arc::get_mut(node).is_some_and(|node| node.get_mut().is_ok_and(|n| n.is_empty()))
            };
            if map.get_mut(&nodeid).is_some_and(is_unused) {
                map.remove(&nodeid);
            }
        }
        result
    }
}
