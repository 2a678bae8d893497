//! A queue of a virtual machine monitor in this process.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use super::{Call, OnFault, QueueConfig, QueueError, Setup, ring::Ring};
use crate::{mem::GuestMap, transport::Config};

/// A queue that can be served again and again: where it is, and how both sides wake each other.
pub struct Source {
    config: QueueConfig,
    is_ready: bool,
    kick: OwnedFd,
    call: Arc<dyn Fn() + Send + Sync>,
}

impl Source {
    /// A queue as it is configured in `queue`. The guest writes to the eventfd `kick` when there are
    /// messages; `call` makes an interrupt of the guest, on a worker, and must not wait.
    pub fn new(
        queue: &virtio_queue::Queue,
        kick: OwnedFd,
        call: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        use virtio_queue::QueueT as _;
        let (config, is_ready) = (QueueConfig::of(queue), queue.ready());
        Self { config, is_ready, kick, call: Arc::new(call) }
    }

    /// Whether the driver has enabled it (`queue_enable`). One that it has not is nowhere.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Where it is.
    pub fn config(&self) -> &QueueConfig {
        &self.config
    }

    /// Whether it is in `map`.
    ///
    /// # Errors
    /// As [`Setup::prepare`].
    pub fn check(&self, map: &GuestMap) -> Result<(), QueueError> {
        Ring::new(&self.config, Arc::new(map.clone())).map(drop)
    }

    /// Whether VIRTIO_RING_F_EVENT_IDX was negotiated.
    pub fn set_event_idx(&mut self, event_idx: bool) {
        self.config.event_idx = event_idx;
    }

    /// The next message to take, which is also the next answer: everything before was answered.
    pub fn set_next(&mut self, next: u16) {
        self.config.next_avail = next;
        self.config.next_used = Some(next);
    }

    /// The next message to take.
    pub fn next(&self) -> u16 {
        self.config.next_avail
    }

    /// What a worker needs to serve it, once.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn setup(
        &self,
        map: GuestMap,
        protocol: Config,
        poll: Duration,
        on_fault: OnFault,
    ) -> io::Result<Setup> {
        let call = self.call.clone();
        Ok(Setup {
            config: self.config.clone(),
            map,
            kick: self.kick.try_clone()?,
            call: Some(Call::Function(Box::new(move || call()))),
            on_fault: Some(on_fault),
            protocol,
            poll,
        })
    }
}
