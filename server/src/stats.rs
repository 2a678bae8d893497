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
    pub(crate) fn add(&mut self, requests: &Requests) {
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
    }

    /// Requests received for `operation`, by its name in [`SessionStats::requests`].
    pub fn requests_for(&self, operation: &str) -> u64 {
        self.requests.iter().find(|(name, _)| *name == operation).map_or(0, |(_, count)| *count)
    }
}

/// The file operations of the threads that serve a session, since they began to. A thread that
/// serves several transports is counted once.
#[derive(Default)]
pub(crate) struct ThreadsIo(Vec<ThreadIo>);

struct ThreadIo {
    counters: Arc<Counters>,
    before: [u64; 3],
    transports: usize,
}

impl ThreadsIo {
    /// The thread of `counters` serves one transport more.
    pub(crate) fn enter(&mut self, counters: Arc<Counters>) {
        match self.0.iter_mut().find(|thread| Arc::ptr_eq(&thread.counters, &counters)) {
            Some(thread) => thread.transports += 1,
            None => {
                let before = numbers(&counters);
                self.0.push(ThreadIo { counters, before, transports: 1 });
            }
        }
    }

    /// It serves one less. What a thread did that serves none is added to `past`.
    pub(crate) fn leave(&mut self, counters: &Arc<Counters>, past: &mut SessionStats) {
        let same = |thread: &ThreadIo| Arc::ptr_eq(&thread.counters, counters);
        let Some(index) = self.0.iter().position(same) else { return };
        self.0[index].transports -= 1;
        if self.0[index].transports == 0 {
            self.0.swap_remove(index).add_to(past);
        }
    }

    /// Adds what was done so far.
    pub(crate) fn add_to(&self, stats: &mut SessionStats) {
        self.0.iter().for_each(|thread| thread.add_to(stats));
    }
}

impl ThreadIo {
    fn add_to(&self, stats: &mut SessionStats) {
        let now = numbers(&self.counters);
        stats.inline += now[0] - self.before[0];
        stats.ring += now[1] - self.before[1];
        stats.pool += now[2] - self.before[2];
    }
}

fn numbers(counters: &Counters) -> [u64; 3] {
    [counters.inline(), counters.ring(), counters.pool()]
}
