//! Blocking calls: inline while they are quick, else on the pool of threads.

use std::{cell::Cell, io, sync::Arc, time::Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::{Cost, engine, size_limit, sys};

/// Runs `call` on this thread while calls of its kind are quick, else on the pool.
///
/// # Errors
/// Only when `call` panicked.
///
/// # Cancel safety
/// As [`on_pool`].
pub async fn run<T: Send + 'static>(
    cost: &Arc<Cost>,
    call: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    if cost.is_quick() {
        engine::count_inline();
        return Ok(size_limit::guarded(|| timed(cost, call)));
    }
    let cost = Arc::clone(cost);
    // On the heap, because most calls are quick: the future of every request has room for this one.
    Box::pin(on_pool(move || timed(&cost, call))).await
}

/// Runs `call`, which is known to take long, on the pool; on this thread when there is no other, and none can be had.
///
/// # Errors
/// Only when `call` panicked.
///
/// # Cancel safety
/// When the future is dropped before the call began, it is never made; afterwards it runs to its end.
pub async fn on_pool<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    engine::pool().run(call).await
}

pub(super) fn timed<T>(cost: &Cost, call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    cost.record(start.elapsed());
    result
}

/// A new pool thread has inherited the affinity of the worker that started it, and shares its umask.
pub(super) fn settle_new_thread() {
    thread_local!(static SETTLED: Cell<bool> = const { Cell::new(false) });
    if !SETTLED.replace(true) {
        let mut all = CpuSet::new();
        (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
        // A refusal leaves the thread where it is, which is slower and still right. Without a umask of
        // its own, what is created applies the caller's by itself.
        let _ = sched_setaffinity(None, &all);
        let _ = sys::own_umask();
        size_limit::block();
    }
}
