//! Virtqueues: the split rings in which a virtual machine leaves its messages.
//!
//! A [`Setup`] says where a ring is and how it is signalled. [`Setup::prepare`] checks it, on any
//! thread, and gives a [`Prepared`] queue, which a worker turns into a [`Virtqueue`], a transport,
//! and a [`QueueControl`], which stops it and changes it while it is served.
//!
//! Structures and rules: "Virtual I/O Device (VIRTIO) Version 1.2", section 2.7, "Split Virtqueues".
#![expect(unsafe_code, reason = "the ring is shared with a guest, which writes it at any time")]

mod call;
mod control;
mod queue;
mod ring;
mod source;
mod walk;

#[cfg(test)]
mod tests;

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

pub use call::Call;
pub use control::{QueueControl, Stopped};
pub use queue::{QueueCompletion, Virtqueue};
pub use ring::{QueueConfig, QueueError};
pub use source::Source;

use crate::{mem::GuestMap, transport::Config};
use ring::Ring;

/// The ring does not wake its other side more often than asked (bit 29).
pub const VIRTIO_RING_F_EVENT_IDX: u64 = 1 << 29;

/// A descriptor may refer to a table of descriptors (bit 28).
pub const VIRTIO_RING_F_INDIRECT_DESC: u64 = 1 << 28;

/// The device is no legacy device (bit 32).
pub const VIRTIO_F_VERSION_1: u64 = 1 << 32;

/// What every device offers whose queues are served here.
pub const FEATURES: u64 =
    VIRTIO_F_VERSION_1 | VIRTIO_RING_F_EVENT_IDX | VIRTIO_RING_F_INDIRECT_DESC;

/// Everything a queue needs to be served.
pub struct Setup {
    /// Where the ring is and how far it was used.
    pub config: QueueConfig,
    /// The guest's memory.
    pub map: GuestMap,
    /// The eventfd by which the guest says that there are messages. It is watched, never read.
    pub kick: OwnedFd,
    /// Tells the guest that messages were answered.
    pub call: Option<Call>,
    /// Is told, at most once, that the ring is not served any more although nobody has stopped it. It is
    /// called on the worker and must not wait.
    pub on_fault: Option<OnFault>,
    /// The protocol of the messages. Its `depth` does not matter: a ring has its own.
    pub protocol: Config,
    /// How long to look for the next message before sleeping, while that pays; zero to sleep at once.
    pub poll: Duration,
}

/// Why a queue is not served any more, although nobody has stopped it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueFault {
    /// The guest made its ring unusable, and has to reset the device.
    Broken,
    /// Whoever served it has ended.
    Unserved,
}

/// What is told of a [`QueueFault`].
pub type OnFault = Box<dyn Fn(QueueFault) + Send>;

/// A queue whose ring was found in the guest's memory. Dropped, it is a [`QueueFault::Unserved`], unless its
/// [`QueueControl`] was dropped before.
pub struct Prepared(Option<Parts>);

struct Parts {
    ring: Ring,
    setup: Setup,
    orders: control::Orders,
}

impl Setup {
    /// Finds the ring in the guest's memory.
    ///
    /// # Errors
    /// When it is not there, or has a size or alignment that no ring has.
    pub fn prepare(self) -> Result<(Prepared, QueueControl), QueueError> {
        let ring = Ring::new(&self.config, Arc::new(self.map.clone()))?;
        let (control, orders) = control::channel();
        Ok((Prepared(Some(Parts { ring, setup: self, orders })), control))
    }
}

impl Prepared {
    /// The transport, on the worker that is to serve it.
    ///
    /// # Errors
    /// When epoll does not take the kick descriptor.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn activate(mut self) -> std::io::Result<Virtqueue> {
        let Parts { ring, setup, orders } = self.0.take().expect("taken here only");
        Virtqueue::new(ring, setup, orders)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(Parts { setup: Setup { on_fault: Some(on_fault), .. }, orders, .. }) = &self.0
            && orders.are_awaited()
        {
            on_fault(QueueFault::Unserved);
        }
    }
}
