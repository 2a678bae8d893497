//! Decides by what it cost so far whether an operation may run on the worker's own thread.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::HostMount;

/// Above this mean an operation leaves the worker's thread: a wake-up of a pool thread and back
/// costs about as much.
const BOUND: u32 = 100_000;

/// The same for a write: its data is copied either way, a megabyte of it in 200 to 300 us, and by another
/// thread not faster.
const WRITE_BOUND: u32 = 1_000_000;

/// The most that one sample counts, in bounds: a single slow call moves the next dozen to the pool, not
/// the next thousand.
const CAP: u32 = 32;

/// A mean that stays.
const WAITS: u32 = u32::MAX;

/// The running cost of one kind of operation on one mount.
#[derive(Debug)]
pub struct Cost {
    /// An exponential mean in nanoseconds, with a weight of 1/8 for the newest sample.
    mean: AtomicU32,
    bound: u32,
}

impl Cost {
    /// An operation that is expected to be quick, as on a local filesystem.
    pub const fn quick() -> Self {
        Self { mean: AtomicU32::new(0), bound: BOUND }
    }

    /// Writes that are expected to be quick.
    pub const fn quick_writes() -> Self {
        Self { mean: AtomicU32::new(0), bound: WRITE_BOUND }
    }

    /// An operation that may wait for another machine or process at any time, however quick it was
    /// so far, as on a network or FUSE filesystem: never on the worker's own thread.
    pub const fn waits() -> Self {
        Self { mean: AtomicU32::new(WAITS), bound: BOUND }
    }

    /// Whether the next one may run on the worker's own thread.
    pub fn is_quick(&self) -> bool {
        self.mean.load(Ordering::Relaxed) <= self.bound
    }

    /// Adds a sample.
    pub fn record(&self, took: Duration) {
        let mean = self.mean.load(Ordering::Relaxed);
        if mean == WAITS {
            return;
        }
        let cap = CAP * self.bound;
        let sample = u32::try_from(took.as_nanos()).unwrap_or(cap).min(cap);
        let next = mean - mean.div_ceil(8) + sample / 8;
        // A sample lost to another worker's does no harm.
        self.mean.store(next, Ordering::Relaxed);
    }
}

/// Whether calls on `file` may wait for another machine or process: those that take [`Cost::waits`]. Its filesystem is
/// not asked.
pub fn may_wait(file: impl AsFd) -> bool {
    HostMount::of(file).may_wait()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_call_moves_the_next_ones_away_and_quick_ones_bring_them_back() {
        let cost = Cost::quick();
        assert!(cost.is_quick());
        cost.record(Duration::from_millis(50));
        assert!(!cost.is_quick());
        for _ in 0..20 {
            cost.record(Duration::from_micros(3));
        }
        assert!(cost.is_quick());
    }

    #[test]
    fn large_writes_are_quick_and_slow_ones_are_not() {
        let cost = Cost::quick_writes();
        for _ in 0..1000 {
            cost.record(Duration::from_micros(300));
        }
        assert!(cost.is_quick());
        cost.record(Duration::from_millis(50));
        assert!(!cost.is_quick());
    }

    #[test]
    fn what_may_wait_is_never_quick() {
        let cost = Cost::waits();
        for _ in 0..1000 {
            cost.record(Duration::from_micros(1));
        }
        assert!(!cost.is_quick());
    }

    #[test]
    fn a_steady_cost_below_the_bound_stays_quick() {
        let cost = Cost::quick();
        for _ in 0..1000 {
            cost.record(Duration::from_micros(90));
        }
        assert!(cost.is_quick());
    }
}
