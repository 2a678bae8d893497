//! What is told to a queue while a worker serves it.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{mpsc, oneshot};

use super::{Call, QueueConfig};
use crate::mem::GuestMap;

/// Stops and changes a queue that a worker serves. Dropped, it stops the queue.
pub struct QueueControl {
    orders: mpsc::UnboundedSender<Order>,
    stopped: oneshot::Receiver<Stopped>,
    wishes: Arc<WishList>,
    counts: Arc<Counts>,
}

/// Where a queue stopped: everything before was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped {
    /// The index of the next message to take from the available ring, which is also that of the used
    /// ring.
    pub next: u16,
}

/// One thing to do.
pub(super) enum Order {
    Stop,
    /// Look for messages, and at what is wished.
    Wishes,
    Memory {
        config: QueueConfig,
        map: GuestMap,
        departing: Vec<(u64, u64)>,
        done: oneshot::Sender<()>,
    },
}

/// What a queue is to do when it has time. A later wish replaces an earlier one, so that whoever wishes
/// faster than a queue obeys takes no more memory.
#[derive(Default)]
pub(super) struct WishList(Mutex<Wishes>);

#[derive(Default)]
pub(super) struct Wishes {
    is_sent: bool,
    pub(super) call: Option<Option<Call>>,
    pub(super) used_log: Option<Option<u64>>,
}

impl WishList {
    pub(super) fn take(&self) -> Wishes {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a wish. Returns whether the queue has to be told that there are some.
    fn add(&self, wish: impl FnOnce(&mut Wishes)) -> bool {
        let mut wishes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wish(&mut wishes);
        !mem::replace(&mut wishes.is_sent, true)
    }
}

/// The queue's end of it.
pub(super) struct Orders {
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) stopped: Option<oneshot::Sender<Stopped>>,
    pub(super) wishes: Arc<WishList>,
    pub(super) counts: Arc<Counts>,
}

impl Orders {
    /// Whether there is somebody who may still give some.
    pub(super) fn are_awaited(&self) -> bool {
        !self.orders.is_closed()
    }
}

/// What went wrong so far.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) malformed: AtomicU64,
}

pub(super) fn channel() -> (QueueControl, Orders) {
    let (sender, orders) = mpsc::unbounded_channel();
    let (stopped, waiter) = oneshot::channel();
    let (wishes, counts) = (Arc::<WishList>::default(), Arc::<Counts>::default());
    let (theirs, done) = (wishes.clone(), counts.clone());
    let control = QueueControl { orders: sender, stopped: waiter, wishes: theirs, counts: done };
    (control, Orders { orders, stopped: Some(stopped), wishes, counts })
}

impl QueueControl {
    /// Asks the queue to take no more messages, and to end when those that it took are answered.
    pub fn stop(&self) {
        self.send(Order::Stop);
    }

    /// Waits until the queue has ended, and everything of it is published. `None` when its worker died.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Panics
    /// When it is called again after it told the end.
    pub async fn stopped(&mut self) -> Option<Stopped> {
        (&mut self.stopped).await.ok()
    }

    /// Asks the queue to look once for messages, whether or not it was kicked.
    pub fn look(&self) {
        self.wish(|_| {});
    }

    /// Changes how the guest is told of answers, and tells it once: what was answered before may have
    /// been told to nobody.
    pub fn set_call(&self, call: Option<Call>) {
        self.wish(|wishes| wishes.call = Some(call));
    }

    /// Changes where writes to the used ring are noted, see [`QueueConfig::used_log`].
    pub fn set_used_log(&self, used_log: Option<u64>) {
        self.wish(|wishes| wishes.used_log = Some(used_log));
    }

    /// Gives the queue another map of the guest's memory; of `config`, only the addresses matter.
    /// Messages that the queue has taken keep their memory. The result resolves when none of them is in
    /// `departing` (start and length) any more.
    pub fn set_memory(
        &self,
        config: QueueConfig,
        map: GuestMap,
        departing: Vec<(u64, u64)>,
    ) -> oneshot::Receiver<()> {
        let (done, waiter) = oneshot::channel();
        self.send(Order::Memory { config, map, departing, done });
        waiter
    }

    /// Messages so far that had no valid descriptors.
    pub fn malformed(&self) -> u64 {
        self.counts.malformed.load(Ordering::Relaxed)
    }

    fn wish(&self, wish: impl FnOnce(&mut Wishes)) {
        if self.wishes.add(wish) {
            self.send(Order::Wishes);
        }
    }

    fn send(&self, order: Order) {
        // A queue that has ended needs nothing.
        let _ = self.orders.send(order);
    }
}
