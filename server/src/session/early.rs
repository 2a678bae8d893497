//! Interrupts that overtake their request: where descriptors are cloned, one worker may have read the
//! request and another one its interrupt.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::lock;
use crate::context::Flight;

/// The most interrupts remembered for requests that another worker has not begun yet.
const EARLY_MAX: usize = 64;

/// How long an interrupt waits for its request. Most come after the reply, and wait in vain.
const EARLY_FOR: Duration = Duration::from_secs(1);

/// Interrupts that came before their request was begun.
#[derive(Default)]
pub(super) struct EarlyInterrupts {
    any: AtomicBool,
    list: Mutex<VecDeque<(u64, Instant)>>,
}

impl EarlyInterrupts {
    pub(super) fn remember(&self, unique: u64) {
        let mut list = lock(&self.list);
        if list.iter().any(|&(early, _)| early == unique) {
            return;
        }
        if list.len() == EARLY_MAX {
            list.pop_front();
        }
        list.push_back((unique, Instant::now()));
        self.any.store(true, Ordering::SeqCst);
    }

    /// Interrupts request `unique`, which `flight` has begun, if its interrupt came first.
    pub(super) fn deliver(&self, flight: &Flight, unique: u64) {
        if self.any.load(Ordering::SeqCst) && self.forget(unique) {
            flight.interrupt(unique);
        }
    }

    /// Returns whether `unique` was among them.
    pub(super) fn forget(&self, unique: u64) -> bool {
        let mut list = lock(&self.list);
        let before = list.len();
        list.retain(|&(early, _)| early != unique);
        let found = list.len() < before;
        while list.front().is_some_and(|(_, since)| since.elapsed() > EARLY_FOR) {
            list.pop_front();
        }
        self.any.store(!list.is_empty(), Ordering::SeqCst);
        found
    }

    /// Forgets all: the next client numbers its requests anew.
    pub(super) fn clear(&self) {
        lock(&self.list).clear();
        self.any.store(false, Ordering::SeqCst);
    }
}
