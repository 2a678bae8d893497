//! What a session has done and what it holds.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use fsrv_transport::io::Counters;

use crate::{fs::Stats, op::Opcode};

/// The codes of the protocol are below this.
const CODES: usize = 64;

/// Requests by operation, of one worker.
pub(crate) struct Requests([AtomicU64; CODES]);

impl Default for Requests {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; CODES])
    }
}

impl Requests {
    /// Counts one request. Only the worker itself calls this, so a plain add is enough.
    pub(crate) fn count(&self, opcode: Opcode) {
        let counter = &self.0[opcode as usize % CODES];
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn get(&self, opcode: Opcode) -> u64 {
        self.0[opcode as usize % CODES].load(Ordering::Relaxed)
    }
}

/// What a session has done and what it holds, at one moment.
#[derive(Clone, Default, Debug)]
pub struct SessionStats {
    /// What the filesystem holds.
    pub held: Stats,
    /// Requests received, by operation; those with none are left out.
    pub requests: Vec<(&'static str, u64)>,
    /// Messages that could not be understood.
    pub malformed: u64,
    /// Requests received and not yet answered.
    pub in_flight: u64,
    /// File operations answered on a worker's own thread.
    pub inline: u64,
    /// File operations sent to an io_uring.
    pub ring: u64,
    /// File operations sent to the pool of threads.
    pub pool: u64,
}

impl SessionStats {
    /// Adds what one worker did.
    pub(crate) fn add(&mut self, requests: &Requests, io: &Arc<Counters>) {
        for &opcode in Opcode::ALL.iter().filter(|&&opcode| (opcode as usize) < CODES) {
            let count = requests.get(opcode);
            if count == 0 {
                continue;
            }
            match self.requests.iter_mut().find(|(name, _)| *name == opcode.name()) {
                Some((_, total)) => *total += count,
                None => self.requests.push((opcode.name(), count)),
            }
        }
        self.inline += io.inline();
        self.ring += io.ring();
        self.pool += io.pool();
    }

    /// Requests received for `operation`, by its name in [`SessionStats::requests`].
    pub fn requests_for(&self, operation: &str) -> u64 {
        self.requests.iter().find(|(name, _)| *name == operation).map_or(0, |(_, count)| *count)
    }
}
