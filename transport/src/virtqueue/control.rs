//! What is told to a queue while a worker serves it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{mpsc, oneshot};

use super::{Call, QueueConfig};
use crate::mem::GuestMap;

/// Stops and changes a queue that a worker serves. Dropped, it stops the queue.
pub struct QueueControl {
    orders: mpsc::UnboundedSender<Order>,
    stopped: oneshot::Receiver<Stopped>,
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
    Look,
    Call(Option<Call>),
    UsedLog(Option<u64>),
    Memory {
        config: QueueConfig,
        map: GuestMap,
        departing: Vec<(u64, u64)>,
        done: oneshot::Sender<()>,
    },
}

/// The queue's end of it.
pub(super) struct Orders {
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) stopped: Option<oneshot::Sender<Stopped>>,
    pub(super) counts: Arc<Counts>,
}

/// What went wrong so far.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) malformed: AtomicU64,
    pub(super) in_flight: AtomicU64,
}

pub(super) fn channel() -> (QueueControl, Orders) {
    let (sender, orders) = mpsc::unbounded_channel();
    let (stopped, waiter) = oneshot::channel();
    let counts = Arc::new(Counts::default());
    let control = QueueControl { orders: sender, stopped: waiter, counts: counts.clone() };
    (control, Orders { orders, stopped: Some(stopped), counts })
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
        self.send(Order::Look);
    }

    /// Changes how the guest is told of answers, and tells it once: what was answered before may have
    /// been told to nobody.
    pub fn set_call(&self, call: Option<Call>) {
        self.send(Order::Call(call));
    }

    /// Changes where writes to the used ring are noted, see [`QueueConfig::used_log`].
    pub fn set_used_log(&self, used_log: Option<u64>) {
        self.send(Order::UsedLog(used_log));
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

    /// Messages taken and not answered.
    pub fn in_flight(&self) -> u64 {
        self.counts.in_flight.load(Ordering::Relaxed)
    }

    fn send(&self, order: Order) {
        // A queue that has ended needs nothing.
        let _ = self.orders.send(order);
    }
}
