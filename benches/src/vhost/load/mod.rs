//! Loads on a queue: so many lanes, each with one request in flight.

mod cycle;
mod native;
mod steady;
mod stream;
mod tail;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fsrv_frontend::{Client, Done};

pub(super) use cycle::{CreateUnlink, OpenRelease, Readdirplus};
pub(super) use native::sequential as native_sequential;
pub(super) use steady::{Getattr, Lookup, Read, Write};
pub(super) use stream::Stream;
pub(super) use tail::p99 as tail;

/// Before the clock runs, so that ring, caches and clock frequency are where they stay.
const WARM_UP: Duration = Duration::from_millis(100);
/// Answers that are taken before the device is shown the next requests.
const BATCH: u32 = 16;

/// A load. Each lane is told when its request was answered, and submits the next.
pub(super) trait Load {
    /// Submits the next request of a lane, with the lane as its tag.
    fn submit(&mut self, client: &mut Client, lane: u64) -> Result<()>;

    /// Takes an answer; the number of operations that it completes.
    fn complete(&mut self, client: &mut Client, done: &Done) -> Result<u64>;

    /// Whether a lane may end here: nothing is left behind.
    fn may_end(&self, _lane: u64) -> bool {
        true
    }
}

/// What a load did.
#[derive(Clone, Copy)]
pub(super) struct Driven {
    pub(super) operations: u64,
    pub(super) seconds: f64,
}

/// Warms up, calls `begin`, and measures for `time`. The answers that come after it do not count.
pub(super) fn drive(
    client: &mut Client,
    depth: u16,
    load: &mut impl Load,
    time: Duration,
    begin: impl FnOnce(),
) -> Result<Driven> {
    for lane in 0..u64::from(depth) {
        load.submit(client, lane)?;
    }
    turn(client, load, Instant::now() + WARM_UP)?;
    begin();
    let start = Instant::now();
    let operations = turn(client, load, start + time)?;
    let seconds = start.elapsed().as_secs_f64();
    finish(client, load)?;
    Ok(Driven { operations, seconds })
}

/// Keeps all lanes busy until `end`.
fn turn(client: &mut Client, load: &mut impl Load, end: Instant) -> Result<u64> {
    let mut operations = 0;
    while Instant::now() < end {
        for _ in 0..BATCH {
            let Some(done) = client.poll()? else { break };
            operations += load.complete(client, &done)?;
            load.submit(client, done.tag)?;
        }
        client.flush()?;
        client.sleep()?;
    }
    Ok(operations)
}

/// Lets every lane come to an end.
fn finish(client: &mut Client, load: &mut impl Load) -> Result<()> {
    while client.in_flight() > 0 {
        let done = client.wait()?;
        load.complete(client, &done)?;
        if !load.may_end(done.tag) {
            load.submit(client, done.tag)?;
        }
    }
    // The slot of the last answer.
    ensure!(client.poll()?.is_none(), "an answer to nothing");
    Ok(())
}

/// A small generator (xorshift64*): the loads need offsets without a pattern, and nothing more.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed | 1)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % limit
    }
}

/// An answer must be a success.
fn succeeded(done: &Done) -> Result<()> {
    ensure!(done.errno == 0, "errno {}", done.errno);
    Ok(())
}
