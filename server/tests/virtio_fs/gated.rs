//! A filesystem whose names say how long a lookup takes.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fsrv::{
    Context, Entry, Errno, Fh, FileSystem, LookupName, NodeId, Result, Stats, op::*, types::*,
};
use tokio::sync::watch;

/// A lookup of this name is answered when the gate opens, whatever happens meanwhile.
pub(crate) const WAITS: &str = "waits";

/// A lookup of this name keeps its worker's thread until the gate opens.
pub(crate) const BLOCKS: &str = "blocks";

/// A lookup of this name panics, after it has waited for the gate.
pub(crate) const PANICS: &str = "panics";

/// Clones are the same filesystem.
#[derive(Clone)]
pub(crate) struct Gated(Arc<State>);

struct State {
    gate: watch::Sender<bool>,
    blocked: Mutex<bool>,
    unblocked: Condvar,
    lookups: AtomicU64,
    handles: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    waiting: AtomicU64,
}

impl Gated {
    pub(crate) fn new() -> Self {
        Self(Arc::new(State {
            gate: watch::Sender::new(false),
            blocked: Mutex::new(true),
            unblocked: Condvar::new(),
            lookups: AtomicU64::new(0),
            handles: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        }))
    }

    pub(crate) fn open_gate(&self) {
        self.0.gate.send_replace(true);
        *self.0.blocked.lock().unwrap() = false;
        self.0.unblocked.notify_all();
    }

    /// How many clients began, and how many ended.
    pub(crate) fn clients(&self) -> (u64, u64) {
        (self.0.begun.load(Ordering::SeqCst), self.0.ended.load(Ordering::SeqCst))
    }

    pub(crate) fn lookups(&self) -> u64 {
        self.0.lookups.load(Ordering::SeqCst)
    }

    /// Requests that wait now, for the gate or for a lock.
    pub(crate) fn waiting(&self) -> u64 {
        self.0.waiting.load(Ordering::SeqCst)
    }

    /// How many hold it: the test, and the device.
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl FileSystem for Gated {
    fn init(&self, init: &mut fsrv::Init) {
        init.want(fsrv::abi::FUSE_POSIX_LOCKS);
        self.0.begun.fetch_add(1, Ordering::SeqCst);
    }

    fn destroy(&self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
        self.0.lookups.store(0, Ordering::SeqCst);
        self.0.handles.store(0, Ordering::SeqCst);
    }

    fn forget(&self, _: NodeId, nlookup: u64) {
        self.0.lookups.fetch_sub(nlookup, Ordering::SeqCst);
    }

    fn stats(&self) -> Stats {
        let handles = self.0.handles.load(Ordering::SeqCst);
        Stats { inodes: 1, lookups: self.lookups(), handles, locks: 0 }
    }

    async fn lookup(&self, _: &Context, op: Lookup<'_>) -> Result<Entry> {
        let LookupName::Name(name) = op.name else { return Err(Errno::ENOENT) };
        if [WAITS, PANICS].map(str::as_bytes).contains(&name.as_bytes()) {
            self.0.waiting.fetch_add(1, Ordering::SeqCst);
            let opened = self.0.gate.subscribe().wait_for(|is_open| *is_open).await.map(drop);
            opened.expect("the gate lives as long as its filesystem");
            self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        assert_ne!(name.as_bytes(), PANICS.as_bytes(), "as it was told to");
        if name.as_bytes() == BLOCKS.as_bytes() {
            self.0.waiting.fetch_add(1, Ordering::SeqCst);
            let blocked = self.0.blocked.lock().unwrap();
            drop(self.0.unblocked.wait_while(blocked, |blocked| *blocked).unwrap());
            self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        self.0.lookups.fetch_add(1, Ordering::SeqCst);
        Ok(Entry { nodeid: NodeId(2), ..Entry::negative(Duration::ZERO) })
    }

    async fn open(&self, _: &Context, _: Open) -> Result<Opened> {
        Ok(Opened { fh: Fh(self.0.handles.fetch_add(1, Ordering::SeqCst)), flags: 0 })
    }

    /// Every lock is held by somebody else, for ever.
    async fn setlk(&self, cx: &Context, op: SetLk) -> Result<()> {
        if !op.wait {
            return Err(Errno::EAGAIN);
        }
        let _parked = cx.park()?;
        self.0.waiting.fetch_add(1, Ordering::SeqCst);
        cx.interrupted().await;
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        Err(Errno::EINTR)
    }
}
