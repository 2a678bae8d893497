//! The requests in flight on one worker: a bounded set of reusable places for futures.
//!
//! `Pin::set` on `Pin<Box<Option<F>>>` replaces a finished future in place, so that a steady stream
//! of requests allocates nothing here.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

/// Futures in flight. Places are made as they are needed and kept.
pub(crate) struct Slots<F> {
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
    ready: Arc<Ready>,
}

struct Slot<F> {
    future: Pin<Box<Option<F>>>,
    flag: Arc<Flag>,
    waker: Waker,
}

/// The slots that want to be polled.
#[derive(Default)]
struct Ready {
    queue: Mutex<VecDeque<usize>>,
    parent: AtomicWaker,
}

impl Ready {
    fn queue(&self) -> MutexGuard<'_, VecDeque<usize>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Flag {
    index: usize,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.queue().push_back(self.index);
            self.ready.parent.wake();
        }
    }
}

impl<F: Future<Output = ()>> Slots<F> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), ready: Arc::default() }
    }

    /// How many futures are in flight.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The place that the next future gets.
    pub(crate) fn next_place(&mut self) -> usize {
        if self.free.is_empty() {
            let index = self.slots.len();
            let ready = self.ready.clone();
            let flag = Arc::new(Flag { index, queued: AtomicBool::new(false), ready });
            self.slots.push(Slot { future: Box::pin(None), waker: flag.clone().into(), flag });
            self.free.push(index);
        }
        self.free[self.free.len() - 1]
    }

    /// Runs `future` until it first waits. Most never do.
    pub(crate) fn start(&mut self, future: F) {
        let index = self.next_place();
        self.free.pop();
        self.slots[index].future.set(Some(future));
        self.poll(index);
    }

    /// Runs those that were woken, each once.
    pub(crate) fn run_woken(&mut self) {
        let woken = self.ready.queue().len();
        for _ in 0..woken {
            let Some(index) = self.ready.queue().pop_front() else { break };
            self.slots[index].flag.queued.store(false, Ordering::Release);
            self.poll(index);
        }
    }

    /// Waits until a future wants to run.
    ///
    /// # Cancel safety
    /// Cancel safe: it takes nothing.
    pub(crate) async fn woken(&self) {
        poll_fn(|cx| {
            self.ready.parent.register(cx.waker());
            if self.ready.queue().is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    fn poll(&mut self, index: usize) {
        let Slot { future, waker, .. } = &mut self.slots[index];
        // A wake-up may come after the end, for a future that is gone.
        let Some(running) = future.as_mut().as_pin_mut() else { return };
        if running.poll(&mut Context::from_waker(waker)).is_ready() {
            future.set(None);
            self.free.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, future::pending};

    use super::*;

    #[test]
    fn a_future_that_does_not_wait_leaves_its_place_at_once() {
        let mut slots = Slots::new();
        slots.start(async {}.boxed_local());
        assert_eq!((slots.len(), slots.slots.len()), (0, 1));
    }

    #[test]
    fn a_woken_future_runs_in_the_next_round() {
        let mut slots = Slots::new();
        slots.start(wait_once().boxed_local());
        assert_eq!(slots.len(), 1);
        slots.run_woken();
        assert_eq!(slots.len(), 0);
    }

    #[test]
    fn a_place_is_reused_beside_one_that_waits_for_ever() {
        let mut slots = Slots::new();
        slots.start(pending().boxed_local());
        for _ in 0..10 {
            slots.start(async {}.boxed_local());
        }
        assert_eq!((slots.len(), slots.slots.len()), (1, 2));
    }

    /// Wakes itself and waits once.
    async fn wait_once() {
        let mut waited = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}
