//! Tells a guest that something happened, by a descriptor that its front-end may change or misuse.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::wait::unblock;
use crate::virtqueue::{Call, QueueControl};

/// One eventfd that a worker writes to. The front-end may fill its counter so that the worker waits in
/// that write; the control thread then takes the counter out.
#[derive(Default)]
pub(super) struct Signal {
    events: Mutex<Events>,
    /// The worker was asked to signal and has not yet done so.
    is_due: AtomicBool,
}

#[derive(Default)]
struct Events {
    now: Option<Arc<OwnedFd>>,
    /// Those before, in which the worker may still wait.
    before: Vec<Arc<OwnedFd>>,
}

impl Signal {
    /// Uses `event` from now on.
    pub(super) fn set(&self, event: Option<OwnedFd>) {
        let mut events = self.events();
        let before = std::mem::replace(&mut events.now, event.map(Arc::new));
        events.before.extend(before);
        events.before.retain(|event| Arc::strong_count(event) > 1);
    }

    /// What a queue is given.
    pub(super) fn call(self: &Arc<Self>) -> Call {
        let signal = self.clone();
        Call::Function(Box::new(move || signal.send()))
    }

    /// Has the worker signal once.
    pub(super) fn ask(self: &Arc<Self>, control: &QueueControl) {
        // However often it is asked before it does so: once is enough.
        if !self.is_due.swap(true, Ordering::AcqRel) {
            control.set_call(Some(self.call()));
        }
    }

    /// Lets a worker go on that waits in a write.
    pub(super) fn unblock(&self) {
        let events = self.events();
        events.now.iter().chain(&events.before).for_each(unblock);
    }

    /// A queue was started or has ended: it has not been asked for anything.
    pub(super) fn renew(&self) {
        self.is_due.store(false, Ordering::Release);
    }

    /// On the worker.
    pub(super) fn send(&self) {
        self.is_due.store(false, Ordering::Release);
        let event = self.events().now.clone();
        if let Some(event) = event {
            // A counter that is full has been signalled.
            let _ = rustix::io::write(&*event, &1u64.to_ne_bytes());
        }
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        // Nothing in here panics half-way.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
