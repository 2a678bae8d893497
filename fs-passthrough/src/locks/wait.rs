//! Waiting for a lock.

use std::{io, sync::Arc, time::Duration};

use fsrv::{Context, Errno, Result};
use tokio::{select, sync::Notify, time::sleep};

use super::{
    LockRequest, LockTable, Style, WaitId,
    host::Opener,
    node::{Verdict, WaitState, Waiter},
};
use crate::{descriptors::Held, mutex::lock};

/// Linux cannot tell when a process of the host unlocks without a thread that blocks for it, so we
/// ask again: soon at first, because most locks are held for a moment.
const RETRY_FIRST: Duration = Duration::from_millis(1);

/// The longest time between two tries. It bounds how late a waiter notices, and what waiting costs:
/// 20 system calls a second.
const RETRY_LAST: Duration = Duration::from_millis(50);

impl LockTable {
    /// Takes a lock that could not be had at once.
    pub(super) async fn wait<F: FnOnce() -> io::Result<Held>>(
        &self,
        cx: &Context,
        request: &LockRequest,
        opener: &mut Opener<F>,
    ) -> Result<()> {
        let _parked = cx.park()?;
        let waiting = Waiting::new(self, request);
        let mut pause = RETRY_FIRST;
        loop {
            let by_host = match waiting.attempt(opener)? {
                Verdict::Granted => return Ok(()),
                Verdict::Held(_) => false,
                Verdict::HeldByHost => true,
            };
            select! {
                biased;
                () = cx.interrupted() => return Err(Errno::EINTR),
                () = waiting.bell.notified() => pause = RETRY_FIRST,
                () = sleep(pause), if by_host => pause = (pause * 2).min(RETRY_LAST),
            }
        }
    }
}

/// A place among the waiters of an inode, left when it is dropped.
struct Waiting<'t> {
    table: &'t LockTable,
    request: &'t LockRequest,
    id: WaitId,
    bell: Arc<Notify>,
}

impl<'t> Waiting<'t> {
    fn new(table: &'t LockTable, request: &'t LockRequest) -> Self {
        let id = table.next_wait();
        let bell = Arc::new(Notify::new());
        table.with_node(request.nodeid, |node| {
            let (request, bell) = (*request, bell.clone());
            node.add_waiter(Waiter { id, request, state: WaitState::Trying, bell });
        });
        Self { table, request, id, bell }
    }

    /// One try. What it leaves behind is a waiter that the next change wakes.
    fn attempt<F: FnOnce() -> io::Result<Held>>(&self, opener: &mut Opener<F>) -> Result<Verdict> {
        let Self { table, request, id, .. } = *self;
        table.with_node(request.nodeid, |node| {
            // Nobody else removes it, but nothing may panic here.
            let waiter = node.waiter(id).ok_or(Errno::EINTR)?;
            if waiter.state == WaitState::Cancelled {
                return Err(Errno::EINTR);
            }
            waiter.state = WaitState::Trying;
            let result = node.grant(request, opener, &table.budget);
            if let Ok(Verdict::Held(holders)) = &result {
                if request.style == Style::Posix
                    && lock(&table.graph).wait(id, request.owner, holders.clone())
                {
                    return Err(Errno::EDEADLK);
                }
                if let Some(waiter) = node.waiter(id) {
                    waiter.state = WaitState::Blocked;
                }
            } else {
                lock(&table.graph).end(id, request.owner);
            }
            // Also after a refusal: those behind this one need not wait for it any longer.
            node.wake(request.style, request.span(), &table.graph);
            result
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Self { table, request, id, .. } = *self;
        table.end_wait();
        table.with_node(request.nodeid, |node| {
            node.remove_waiter(id);
            lock(&table.graph).end(id, request.owner);
            node.wake(request.style, request.span(), &table.graph);
        });
    }
}
