//! Which engine a thread has, and what it did so far.

use std::{
    cell::{Cell, OnceCell},
    fmt, io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

use super::Pool;

/// How a thread does what cannot be answered at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Engine {
    /// The io_uring of the worker's runtime.
    Uring,
    /// The worker's pool of threads.
    #[default]
    Threads,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "io_uring",
            Self::Threads => "threads",
        })
    }
}

/// How many file operations of one worker ran where. The numbers only grow.
#[derive(Default, Debug)]
pub struct Counters {
    inline: AtomicU64,
    ring: AtomicU64,
    pool: AtomicU64,
    bounced: AtomicU64,
}

impl Counters {
    /// Operations answered on the worker's own thread.
    pub fn inline(&self) -> u64 {
        self.inline.load(Ordering::Relaxed)
    }

    /// Operations sent to the io_uring.
    pub fn ring(&self) -> u64 {
        self.ring.load(Ordering::Relaxed)
    }

    /// Operations sent to the pool of threads.
    pub fn pool(&self) -> u64 {
        self.pool.load(Ordering::Relaxed)
    }

    /// Bytes copied between a client's memory and a file, because O_DIRECT does not take that memory as
    /// it lies.
    pub fn bounced(&self) -> u64 {
        self.bounced.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Local {
    engine: Cell<Engine>,
    /// Operations queued since the last forced park; see [`super::Parker`].
    unsubmitted: Cell<u32>,
    /// Operations of the ring whose completion was not seen yet.
    in_ring: Cell<u32>,
    /// Whether somebody looks after them; see [`super::park::offer_again`].
    is_looked_after: Cell<bool>,
    ring_used: Rc<Notify>,
    counters: OnceCell<Arc<Counters>>,
    pool: OnceCell<Arc<Pool>>,
}

thread_local! {
    static LOCAL: Local = Local::default();
}

/// Makes this thread a worker with `engine`, and a pool that always has a thread.
///
/// # Errors
/// When that thread cannot be had.
pub(crate) fn enter(engine: Engine) -> io::Result<()> {
    let pool = Pool::of_worker()?;
    LOCAL.with(|local| {
        local.engine.set(engine);
        // A thread becomes a worker once.
        let _ = local.pool.set(pool);
    });
    Ok(())
}

/// The pool of this thread: each has its own, so that what a pool's threads inherit is what this one has.
pub(super) fn pool() -> Arc<Pool> {
    LOCAL.with(|local| local.pool.get_or_init(Pool::of_others).clone())
}

/// The counters of this thread.
pub fn counters() -> Arc<Counters> {
    LOCAL.with(|local| local.counters.get_or_init(Default::default).clone())
}

pub(super) fn current() -> Engine {
    LOCAL.with(|local| local.engine.get())
}

pub(super) fn count_inline() {
    count(|counters| &counters.inline);
}

pub(super) fn count_pool() {
    count(|counters| &counters.pool);
}

/// Counts an operation that waits in the submission queue for the runtime to park.
pub(super) fn count_ring() {
    count(|counters| &counters.ring);
    LOCAL.with(|local| {
        local.unsubmitted.set(local.unsubmitted.get() + 1);
        local.in_ring.set(local.in_ring.get() + 1);
        if !local.is_looked_after.replace(true) {
            local.ring_used.notify_one();
        }
    });
}

/// Waits until operations of the ring have to be looked after.
pub(super) async fn ring_used() {
    let used = LOCAL.with(|local| local.ring_used.clone());
    used.notified().await;
}

/// Says that nobody looks after them from now on.
pub(super) fn ring_is_idle() {
    LOCAL.with(|local| local.is_looked_after.set(false));
}

/// Says that the completion of such an operation was seen.
pub(super) fn out_of_ring() {
    // At the end of the thread nobody asks any more.
    let _ = LOCAL.try_with(|local| local.in_ring.set(local.in_ring.get() - 1));
}

pub(super) fn in_ring() -> u32 {
    LOCAL.with(|local| local.in_ring.get())
}

/// How many operations were queued since the last forced park.
pub(super) fn unsubmitted() -> u32 {
    LOCAL.with(|local| local.unsubmitted.get())
}

/// Says that all of them are about to be submitted.
pub(super) fn submitted() {
    LOCAL.with(|local| local.unsubmitted.set(0));
}

/// Counts `len` bytes copied for O_DIRECT.
pub(super) fn count_bounced(len: usize) {
    add(|counters| &counters.bounced, len as u64);
}

fn count(which: impl FnOnce(&Counters) -> &AtomicU64) {
    add(which, 1);
}

fn add(which: impl FnOnce(&Counters) -> &AtomicU64, many: u64) {
    LOCAL.with(|local| {
        let counter = which(local.counters.get_or_init(Default::default));
        // One writer: a plain add is enough, and cheaper than an atomic one.
        counter.store(counter.load(Ordering::Relaxed) + many, Ordering::Relaxed);
    });
}
