//! Decides by what it cost so far whether an operation may run on the worker's own thread.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// Above this mean an operation leaves the worker's thread: a wake-up of a pool thread and back
/// costs about as much.
const BOUND: u32 = 100_000;

/// The most that one sample counts: a single slow call moves the next dozen to the pool, not the
/// next thousand.
const CAP: u32 = 32 * BOUND;

/// The running cost of one kind of operation on one mount.
#[derive(Debug)]
pub struct Cost {
    /// An exponential mean in nanoseconds, with a weight of 1/8 for the newest sample.
    mean: AtomicU32,
}

impl Cost {
    /// An operation that is expected to be quick, as on a local filesystem.
    pub const fn quick() -> Self {
        Self { mean: AtomicU32::new(0) }
    }

    /// An operation that is expected to wait, as on a network or FUSE filesystem.
    pub const fn slow() -> Self {
        Self { mean: AtomicU32::new(CAP) }
    }

    /// Whether the next one may run on the worker's own thread.
    pub fn is_quick(&self) -> bool {
        self.mean.load(Ordering::Relaxed) <= BOUND
    }

    /// Adds a sample.
    pub fn record(&self, took: Duration) {
        let sample = u32::try_from(took.as_nanos()).unwrap_or(CAP).min(CAP);
        let mean = self.mean.load(Ordering::Relaxed);
        let next = mean - mean.div_ceil(8) + sample / 8;
        // A sample lost to another worker's does no harm.
        self.mean.store(next, Ordering::Relaxed);
    }
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
    fn a_slow_mount_that_turns_out_quick_is_served_inline() {
        let cost = Cost::slow();
        for _ in 0..40 {
            cost.record(Duration::from_micros(5));
        }
        assert!(cost.is_quick());
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
