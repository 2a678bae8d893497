//! Waiting for a lock.

use std::{io, sync::Arc, time::Duration};

use fsrv::{Context, Errno, Result};
use tokio::{select, sync::Notify, time::sleep};

use super::{
    Host, LockRequest, LockTable, Style, WaitId,
    host::Opener,
    node::{Verdict, WaitState, Waiter},
    remote::Tried,
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
    pub(super) async fn wait<F: FnOnce() -> io::Result<Held> + Send + 'static>(
        self: &Arc<Self>,
        cx: &Context,
        request: &LockRequest,
        host: Host<'_>,
        mut opener: Opener<F>,
    ) -> Result<()> {
        let _parked = cx.park()?;
        let waiting = Waiting::new(self, request, host);
        let mut pause = RETRY_FIRST;
        loop {
            let place = waiting.place.clone();
            let tried = host.run_parked(cx, move || place.attempt(opener)).await?;
            let (verdict, back) = tried.taken();
            opener = back;
            let by_host = match verdict? {
                Verdict::Granted => return Ok(()),
                Verdict::Held(_) => false,
                Verdict::HeldByHost => true,
            };
            select! {
                biased;
                () = cx.interrupted() => return Err(Errno::EINTR),
                () = waiting.place.bell.notified() => pause = RETRY_FIRST,
                () = sleep(pause), if by_host => pause = (pause * 2).min(RETRY_LAST),
            }
        }
    }
}

/// A place among the waiters of an inode, taken by the first try and left when this is dropped.
struct Waiting<'m> {
    place: Place,
    host: Host<'m>,
}

#[derive(Clone)]
struct Place {
    table: Arc<LockTable>,
    request: LockRequest,
    id: WaitId,
    bell: Arc<Notify>,
}

impl<'m> Waiting<'m> {
    fn new(table: &Arc<LockTable>, request: &LockRequest, host: Host<'m>) -> Self {
        let (id, bell) = (table.next_wait(), Arc::new(Notify::new()));
        let place = Place { table: table.clone(), request: *request, id, bell };
        Self { place, host }
    }
}

impl Place {
    /// One try. What it leaves behind is a waiter that the next change wakes.
    fn attempt<F: FnOnce() -> io::Result<Held>>(&self, opener: Opener<F>) -> Tried<F> {
        let Self { table, request, id, bell } = self;
        table.attempt(*request, opener, |node, opener| {
            match node.waiter(*id) {
                Some(waiter) if waiter.state == WaitState::Cancelled => return Err(Errno::EINTR),
                Some(waiter) => waiter.state = WaitState::Trying,
                None => node.add_waiter(Waiter {
                    id: *id,
                    request: *request,
                    state: WaitState::Trying,
                    bell: bell.clone(),
                }),
            }
            let result = node.grant(request, opener, &table.budget);
            if let Ok(Verdict::Held(holders)) = &result {
                if request.style == Style::Posix
                    && lock(&table.graph).wait(*id, request.owner, holders.clone())
                {
                    return Err(Errno::EDEADLK);
                }
                if let Some(waiter) = node.waiter(*id) {
                    waiter.state = WaitState::Blocked;
                }
            } else {
                lock(&table.graph).end(*id, request.owner);
            }
            // Also after a refusal: those behind this one need not wait for it any longer.
            node.wake(request.style, request.span(), &table.graph);
            result
        })
    }

    fn leave(&self) {
        let Self { table, request, id, .. } = self;
        table.end_wait();
        table.with_node(request.nodeid, |node| {
            node.remove_waiter(*id);
            lock(&table.graph).end(*id, request.owner);
            node.wake(request.style, request.span(), &table.graph);
        });
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let place = self.place.clone();
        self.host.later(move || place.leave());
    }
}
