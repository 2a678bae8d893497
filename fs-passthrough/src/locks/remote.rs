//! Locks on files of another machine or process: each try is made by a thread that may wait for it, and holds up only
//! those who want a lock on the same file.

use std::{io, sync::Arc};

use fsrv::{Context, Result};
use fsrv_transport::io::Pool;

use super::{
    LockRequest, LockTable,
    host::Opener,
    node::{NodeLocks, Verdict},
};
use crate::{
    descriptors::Held,
    filesystem::Memory,
    remote::{Remote, interruptible},
};

/// Where the host is asked.
#[derive(Clone, Copy)]
pub(crate) enum Host<'m> {
    /// On this thread.
    Local,
    /// On one that may wait for it.
    Remote(&'m Remote),
}

impl Host<'_> {
    pub(super) fn pool(self) -> Option<Arc<Pool>> {
        match self {
            Self::Local => None,
            Self::Remote(remote) => Some(remote.pool().clone()),
        }
    }

    pub(super) async fn run<T: Send + 'static>(
        self,
        cx: &Context,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        match self {
            Self::Local => Ok(call()),
            Self::Remote(remote) => Box::pin(remote.run(cx, Memory::Ours, || Ok(call()))).await,
        }
    }

    /// As [`Host::run`], for a request that has its place among those who wait.
    pub(super) async fn run_parked<T: Send + 'static>(
        self,
        cx: &Context,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        match self {
            Self::Local => Ok(call()),
            Self::Remote(remote) => {
                let run = Box::pin(remote.pool().run(call));
                Ok(interruptible(cx, run).await??)
            }
        }
    }

    pub(super) fn later(self, call: impl FnOnce() + Send + 'static) {
        match self {
            Self::Local => call(),
            Self::Remote(remote) => remote.later(call),
        }
    }
}

impl LockTable {
    /// One try on this thread, by `grant` on the file's locks.
    pub(super) fn attempt<F: FnOnce() -> io::Result<Held>>(
        self: &Arc<Self>,
        request: LockRequest,
        mut opener: Opener<F>,
        grant: impl FnOnce(&mut NodeLocks, &mut Opener<F>) -> Result<Verdict>,
    ) -> Tried<F> {
        let (verdict, undo) = self.with_node(request.nodeid, |node| {
            let held_before = node.holds(&request);
            let verdict = grant(node, &mut opener);
            let is_new = matches!(verdict, Ok(Verdict::Granted)) && !held_before;
            let grant = if is_new { node.last_grant(&request) } else { 0 };
            (verdict, grant)
        });
        let undo = (undo != 0).then(|| Undo { table: self.clone(), request, grant: undo });
        Tried { verdict, opener, undo }
    }
}

/// The result of a try. Dropped, it was in vain: what was granted is dropped too.
pub(super) struct Tried<F> {
    verdict: Result<Verdict>,
    opener: Opener<F>,
    undo: Option<Undo>,
}

impl<F> Tried<F> {
    /// The result, for the one who asked.
    pub(super) fn taken(mut self) -> (Result<Verdict>, Opener<F>) {
        if let Some(undo) = &mut self.undo {
            undo.grant = 0;
        }
        (self.verdict, self.opener)
    }
}

/// Drops a lock that was granted to one who no longer waits. What it changed of an older one stays so.
struct Undo {
    table: Arc<LockTable>,
    request: LockRequest,
    /// Which grant that was, 0 for nothing to undo.
    grant: u64,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.grant == 0 {
            return;
        }
        let Self { table, request, grant } = self;
        table.with_node(request.nodeid, |node| {
            // The same owner may have asked again.
            if node.last_grant(request) == *grant {
                node.revoke(request, &table.budget);
                node.wake(request.style, request.span(), &table.graph);
            }
        });
    }
}
