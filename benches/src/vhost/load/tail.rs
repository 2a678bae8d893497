//! Warm reads beside reads from the disk in one queue: how long the slowest of a hundred waits.

use std::time::{Duration, Instant};

use anyhow::Result;
use fsrv_frontend::Client;

use super::{Load, Read, finish};

/// One lane of warm reads, `cold` lanes of direct ones.
struct Mixed {
    warm: Read,
    direct: Read,
    warm_lane: u64,
}

/// Microseconds of the slowest warm read of a hundred, and how many reads there were of both kinds.
pub(crate) fn p99(
    client: &mut Client,
    warm: Read,
    direct: Read,
    cold: u16,
    time: Duration,
) -> Result<(f64, u64)> {
    let mut mixed = Mixed { warm, direct, warm_lane: cold.into() };
    for lane in 0..=u64::from(cold) {
        mixed.submit(client, lane)?;
    }
    let mut times = Vec::new();
    let (mut operations, mut submitted) = (0, Instant::now());
    let end = submitted + time;
    while Instant::now() < end {
        let done = client.wait()?;
        operations += mixed.complete(client, &done)?;
        if done.tag == mixed.warm_lane {
            times.push(submitted.elapsed());
            submitted = Instant::now();
        }
        mixed.submit(client, done.tag)?;
    }
    finish(client, &mut mixed)?;
    anyhow::ensure!(times.len() >= 100, "only {} warm reads", times.len());
    times.sort_unstable();
    let slow = times[(times.len() - 1) * 99 / 100];
    Ok((slow.as_secs_f64() * 1e6, operations))
}

impl Mixed {
    fn of(&mut self, lane: u64) -> &mut Read {
        if lane == self.warm_lane { &mut self.warm } else { &mut self.direct }
    }
}

impl Load for Mixed {
    fn submit(&mut self, client: &mut Client, lane: u64) -> Result<()> {
        self.of(lane).submit(client, lane)
    }

    fn complete(&mut self, client: &mut Client, done: &fsrv_frontend::Done) -> Result<u64> {
        self.of(done.tag).complete(client, done)
    }
}
