//! Decides by what it cost so far whether an operation may run on the worker's own thread.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Above this mean an operation leaves the worker's thread: a wake-up of a pool thread and back
/// costs about as much.
const BOUND: u32 = 100_000;

/// The same for a write: its data is copied either way, a megabyte of it in 200 to 300 us, and by another
/// thread not faster.
const WRITE_BOUND: u32 = 1_000_000;

/// The most that one sample counts in the mean, in bounds: a single slow call moves the next dozen to the pool, not
/// the next thousand.
const CAP: u32 = 32;

/// A sample of more bounds than this is a stall. When one comes within `OFTEN` calls of the last, the operation stays
/// away for a time: what is slow one time in twenty would come back each time.
const STALL: u32 = 10;

/// A busy machine takes the CPU from a call too, for some milliseconds one time in thousands. That tells nothing of the
/// call.
const OFTEN: u32 = 100;

/// After a stall of more bounds than this the operation stays away in any case, and longer when it is one within
/// `LONG_OFTEN` calls: that rarely is a machine at work.
const LONG_STALL: u32 = 100;
const LONG_OFTEN: u32 = 20_000;

/// The first time to stay away, and the longest. It doubles with each stall that is met again, and halves with each
/// `LONGEST` without one.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// The running cost of one kind of operation on one mount.
#[derive(Debug)]
pub struct Cost {
    recent: AtomicU64,
    away: AtomicU64,
    stalls: AtomicU64,
    bound: u32,
}

impl Cost {
    /// An operation that is expected to be quick, as on a local filesystem.
    pub const fn quick() -> Self {
        Self::new(Recent::START, BOUND)
    }

    /// Writes that are expected to be quick.
    pub const fn quick_writes() -> Self {
        Self::new(Recent::START, WRITE_BOUND)
    }

    /// An operation that may wait for another machine or process at any time, however quick it was
    /// so far, as on a network or FUSE filesystem: never on the worker's own thread.
    pub const fn waits() -> Self {
        Self::new(Recent::WAITS, BOUND)
    }

    const fn new(recent: Recent, bound: u32) -> Self {
        let away = Away { is_now: false, doublings: 0, until: 0 };
        let (recent, away) = (AtomicU64::new(recent.pack()), AtomicU64::new(away.pack()));
        Self { recent, away, stalls: AtomicU64::new(0), bound }
    }

    /// Whether the next one may run on the worker's own thread.
    pub fn is_quick(&self) -> bool {
        self.is_quick_at(now)
    }

    /// Adds a sample.
    pub fn record(&self, took: Duration) {
        self.record_at(took, now);
    }

    /// The clock is read only while the operation stays away.
    fn is_quick_at(&self, now: impl FnOnce() -> u64) -> bool {
        let recent = Recent::unpack(self.recent.load(Ordering::Relaxed));
        recent.mean <= self.bound && !self.is_away(now)
    }

    fn is_away(&self, now: impl FnOnce() -> u64) -> bool {
        let packed = self.away.load(Ordering::Relaxed);
        let away = Away::unpack(packed);
        if !away.is_now || now() < away.until {
            return away.is_now;
        }
        let back = Away { is_now: false, ..away }.pack();
        // Unless another worker has met the next stall meanwhile.
        let _ = self.away.compare_exchange(packed, back, Ordering::Relaxed, Ordering::Relaxed);
        false
    }

    fn record_at(&self, took: Duration, now: impl FnOnce() -> u64) {
        let recent = Recent::unpack(self.recent.load(Ordering::Relaxed));
        if recent == Recent::WAITS {
            return;
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let sample = nanos.min(u64::from(CAP * self.bound)) as u32;
        let mean = recent.mean - recent.mean.div_ceil(8) + sample / 8;
        // A sample lost to another worker's does no harm.
        let next = Recent { mean, calls: recent.calls.wrapping_add(1) };
        self.recent.store(next.pack(), Ordering::Relaxed);
        if sample > STALL * self.bound {
            self.stalled(nanos > u64::from(LONG_STALL * self.bound), recent.calls, now);
        }
    }

    #[cold]
    fn stalled(&self, is_long: bool, call: u32, now: impl FnOnce() -> u64) {
        let last = Stalls::unpack(self.stalls.load(Ordering::Relaxed));
        let next = Stalls { any: call, long: if is_long { call } else { last.long } };
        self.stalls.store(next.pack(), Ordering::Relaxed);
        let (last, often) = if is_long { (last.long, LONG_OFTEN) } else { (last.any, OFTEN) };
        let is_met_again = call.wrapping_sub(last) <= often;
        if is_long || is_met_again {
            let now = now();
            let longer =
                |packed| Some(Away::unpack(packed).after_a_stall(now, is_met_again).pack());
            let _ = self.away.fetch_update(Ordering::Relaxed, Ordering::Relaxed, longer);
        }
    }
}

/// What the last calls were like.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Recent {
    /// An exponential mean in nanoseconds, with a weight of 1/8 for the newest sample.
    mean: u32,
    /// The number of the next call.
    calls: u32,
}

impl Recent {
    /// Far from a stall.
    const START: Self = Self { mean: 0, calls: LONG_OFTEN + 1 };

    /// A mean that stays.
    const WAITS: Self = Self { mean: u32::MAX, ..Self::START };

    const fn pack(self) -> u64 {
        (self.mean as u64) << 32 | self.calls as u64
    }

    fn unpack(packed: u64) -> Self {
        Self { mean: (packed >> 32) as u32, calls: packed as u32 }
    }
}

/// The numbers of the last call that stalled, and the last that did for long.
#[derive(Clone, Copy)]
struct Stalls {
    any: u32,
    long: u32,
}

impl Stalls {
    fn pack(self) -> u64 {
        u64::from(self.any) << 32 | u64::from(self.long)
    }

    fn unpack(packed: u64) -> Self {
        Self { any: (packed >> 32) as u32, long: packed as u32 }
    }
}

/// How long an operation stays away.
#[derive(Clone, Copy)]
struct Away {
    is_now: bool,
    doublings: u8,
    /// In milliseconds of the clock; 0 before the first time.
    until: u64,
}

impl Away {
    /// Also one that comes while the operation is away, on another thread: then it is as slow as it was.
    fn after_a_stall(self, now: u64, is_met_again: bool) -> Self {
        let doublings = if now < self.until {
            self.doublings
        } else if self.until == 0 || !is_met_again {
            0
        } else {
            let quiet = (now - self.until) / LONGEST.as_millis() as u64;
            u8::try_from(quiet).map_or(0, |quiet| (self.doublings + 1).saturating_sub(quiet))
        };
        let time = (FIRST * (1 << doublings)).min(LONGEST);
        let doublings = if time == LONGEST { self.doublings } else { doublings };
        Self { is_now: true, doublings, until: now + time.as_millis() as u64 }
    }

    const fn pack(self) -> u64 {
        (self.is_now as u64) << 63 | (self.doublings as u64) << 56 | self.until
    }

    fn unpack(packed: u64) -> Self {
        let (is_now, doublings) = (packed >> 63 == 1, (packed >> 56 & 0x7f) as u8);
        Self { is_now, doublings, until: packed & ((1 << 56) - 1) }
    }
}

/// Milliseconds since something before the first call.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_millis() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(3);
    const STALLED: Duration = Duration::from_millis(2);
    const LONG: Duration = Duration::from_millis(50);

    /// A cost, and a clock of its own in milliseconds.
    struct Clocked(Cost, std::cell::Cell<u64>);

    impl Clocked {
        fn new(cost: Cost) -> Self {
            Self(cost, 1000.into())
        }

        fn wait(&self, millis: u64) {
            self.1.set(self.1.get() + millis);
        }

        fn is_quick(&self) -> bool {
            self.0.is_quick_at(|| self.1.get())
        }

        fn record(&self, times: usize, took: Duration) {
            (0..times).for_each(|_| self.0.record_at(took, || self.1.get()));
        }

        /// Milliseconds until it may come back, when all that comes meanwhile is quick.
        fn stays_away(&self) -> u64 {
            let start = self.1.get();
            self.record(40, QUICK);
            while !self.is_quick() {
                self.wait(1);
            }
            self.1.get() - start
        }
    }

    #[test]
    fn one_slow_call_moves_the_next_ones_away_and_quick_ones_bring_them_back() {
        let cost = Clocked::new(Cost::quick());
        cost.record(1, STALLED);
        assert!(!cost.is_quick());
        cost.record(20, QUICK);
        assert!(cost.is_quick());
    }

    #[test]
    fn what_is_slow_one_time_in_twenty_stays_away_longer_each_time() {
        let cost = Clocked::new(Cost::quick());
        let times: Vec<_> = (0..10)
            .map(|_| {
                cost.record(19, QUICK);
                cost.record(1, STALLED);
                cost.stays_away()
            })
            .collect();
        let doubled = [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000];
        assert_eq!((times[0], &times[1..]), (0, &doubled[..]));
    }

    #[test]
    fn a_long_stall_keeps_away_whatever_came_before() {
        let cost = Clocked::new(Cost::quick());
        for times in [100, 200, 400] {
            cost.record(10_000, QUICK);
            cost.record(1, LONG);
            assert_eq!(cost.stays_away(), times);
        }
        // One in very many is no reason to stay longer.
        cost.record(20_001, QUICK);
        cost.record(1, LONG);
        assert_eq!(cost.stays_away(), 100);
    }

    #[test]
    fn a_stall_met_while_away_prolongs_and_does_not_double() {
        let cost = Clocked::new(Cost::quick());
        cost.record(1, LONG);
        cost.wait(60);
        // Several at once, on threads of the pool.
        cost.record(8, LONG);
        assert_eq!(cost.stays_away(), 100);
    }

    #[test]
    fn who_behaves_is_forgiven() {
        let cost = Clocked::new(Cost::quick());
        for _ in 0..20 {
            cost.record(1, LONG);
            cost.stays_away();
        }
        cost.wait(35_000);
        cost.record(1, LONG);
        assert_eq!(cost.stays_away(), 1600);
        cost.wait(1_000_000);
        cost.record(1, LONG);
        assert_eq!(cost.stays_away(), 100);
    }

    #[test]
    fn the_clock_is_not_read_while_calls_are_quick() {
        let cost = Cost::quick();
        let no_clock = || -> u64 { panic!("the clock is read") };
        for _ in 0..1000 {
            assert!(cost.is_quick_at(no_clock));
            cost.record_at(QUICK, no_clock);
        }
        cost.record_at(LONG, || 5);
        assert!(!cost.is_quick_at(no_clock), "the mean is enough");
        (0..40).for_each(|_| cost.record_at(QUICK, no_clock));
        assert!(!cost.is_quick_at(|| 100) && cost.is_quick_at(|| 200));
        assert!(cost.is_quick_at(no_clock));
    }

    #[test]
    fn large_writes_are_quick_and_slow_ones_are_not() {
        let cost = Cost::quick_writes();
        for _ in 0..1000 {
            cost.record(Duration::from_micros(300));
        }
        assert!(cost.is_quick());
        cost.record(LONG);
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
