//! The requests in flight on one worker: a bounded set of reusable places for futures.
//!
//! `Pin::set` on `Pin<Box<Option<F>>>` replaces a finished future in place, so that a steady stream
//! of requests allocates nothing here.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

use super::sync::{AtomicBool, AtomicWaker, Mutex, MutexGuard, Ordering};

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

    use super::{
        super::sync::{
            AtomicU32,
            check::{block_on, orders, thread},
        },
        *,
    };

    #[test]
    fn a_future_that_does_not_wait_leaves_its_place_at_once() {
        orders(|| {
            let mut slots = Slots::new();
            slots.start(async {}.boxed_local());
            assert_eq!((slots.len(), slots.slots.len()), (0, 1));
        });
    }

    #[test]
    fn a_woken_future_runs_in_the_next_round() {
        orders(|| {
            let mut slots = Slots::new();
            slots.start(wait_once().boxed_local());
            assert_eq!(slots.len(), 1);
            slots.run_woken();
            assert_eq!(slots.len(), 0);
        });
    }

    #[test]
    fn a_place_is_reused_beside_one_that_waits_for_ever() {
        orders(|| {
            let mut slots = Slots::new();
            slots.start(pending().boxed_local());
            for _ in 0..10 {
                slots.start(async {}.boxed_local());
            }
            assert_eq!((slots.len(), slots.slots.len()), (1, 2));
        });
    }

    #[test]
    fn a_future_runs_to_its_end_however_its_wake_ups_come() {
        orders(|| {
            let event = Arc::new(Event::default());
            let mut slots = Slots::new();
            slots.start(event.clone().comes(2));
            let waker = thread::spawn(move || {
                event.happens();
                event.happens();
            });
            block_on(until_empty(&mut slots));
            waker.join().unwrap();
        });
    }

    #[test]
    fn two_futures_woken_by_two_threads_both_end() {
        orders(|| {
            let events = [Arc::new(Event::default()), Arc::new(Event::default())];
            let mut slots = Slots::new();
            let wakers = events.map(|event| {
                slots.start(event.clone().comes(1));
                thread::spawn(move || event.happens())
            });
            block_on(until_empty(&mut slots));
            wakers.into_iter().for_each(|waker| waker.join().unwrap());
        });
    }

    #[test]
    fn a_late_wake_up_does_no_harm_to_the_next_future_in_its_place() {
        orders(|| {
            let (old, new) = (Arc::new(Event::default()), Arc::new(Event::default()));
            let mut slots = Slots::new();
            slots.start(old.clone().comes(1));
            let waker = thread::spawn(move || {
                old.happens();
                old.happens();
            });
            block_on(until_empty(&mut slots));
            slots.start(new.clone().comes(1));
            assert_eq!(slots.slots.len(), 1);
            let other = thread::spawn(move || new.happens());
            block_on(until_empty(&mut slots));
            waker.join().unwrap();
            other.join().unwrap();
        });
    }

    /// What a loop does with them.
    async fn until_empty(slots: &mut Slots<impl Future<Output = ()>>) {
        loop {
            slots.run_woken();
            if slots.len() == 0 {
                return;
            }
            slots.woken().await;
        }
    }

    /// Something that happens on another thread, some times.
    #[derive(Default)]
    struct Event {
        times: AtomicU32,
        waker: AtomicWaker,
    }

    impl Event {
        fn happens(&self) {
            self.times.fetch_add(1, Ordering::Release);
            self.waker.wake();
        }

        async fn comes(self: Arc<Self>, times: u32) {
            poll_fn(|cx| {
                self.waker.register(cx.waker());
                let happened = self.times.load(Ordering::Acquire);
                if happened >= times { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
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
