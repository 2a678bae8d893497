//! Interrupts that overtake their request: where descriptors are cloned, one worker may have read the
//! request and another one its interrupt.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    Flight, lock,
    sync::{AtomicBool, Mutex, Ordering, fence},
};

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
        self.any.store(true, Ordering::Relaxed);
        // Against `deliver`: one of the two sees what the other did, the request or the interrupt.
        fence(Ordering::SeqCst);
    }

    /// Interrupts request `unique`, which `flight` has begun, if its interrupt came first.
    pub(super) fn deliver(&self, flight: &Flight, unique: u64) {
        fence(Ordering::SeqCst);
        if self.any.load(Ordering::Relaxed) && self.forget(unique) {
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
        self.any.store(!list.is_empty(), Ordering::Relaxed);
        found
    }

    /// Forgets all: the next client numbers its requests anew.
    pub(super) fn clear(&self) {
        lock(&self.list).clear();
        self.any.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc, task::Poll};

    use super::{
        super::sync::check::{block_on, orders, thread},
        *,
    };
    use crate::op::Opcode;

    #[test]
    fn an_interrupt_reaches_its_request_before_and_after_it_began() {
        orders(|| {
            let flight = Arc::new(Flight::default());
            let early = Arc::new(EarlyInterrupts::default());
            let (theirs, list) = (flight.clone(), early.clone());
            let other = thread::spawn(move || {
                // As a session does it.
                if !theirs.interrupt(7) {
                    list.remember(7);
                    if theirs.interrupt(7) {
                        list.forget(7);
                    }
                }
            });
            flight.begin(7, Opcode::SetLkW);
            early.deliver(&flight, 7);
            block_on(poll_fn(|cx| {
                if flight.poll_interrupted(7, cx) { Poll::Ready(()) } else { Poll::Pending }
            }));
            other.join().unwrap();
        });
    }

    #[test]
    fn an_interrupt_of_the_last_request_does_not_reach_the_next_one() {
        orders(|| {
            let flight = Arc::new(Flight::default());
            flight.begin(7, Opcode::SetLkW);
            let theirs = flight.clone();
            let other = thread::spawn(move || theirs.interrupt(7));
            flight.end();
            flight.begin(8, Opcode::SetLkW);
            other.join().unwrap();
            assert!(!flight.is_interrupted(8));
        });
    }
}
