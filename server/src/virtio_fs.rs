//! The virtio-fs device: queue 0 is the high-priority queue, those behind it carry requests.
//!
//! [`VirtioFs`] is the device of a virtual machine monitor in its own process. `examples/vmm` shows it
//! end to end. [`VhostUserFs`] is the same device for one in another process.
//!
//! Structures and rules: "Virtual I/O Device (VIRTIO) Version 1.2", section 5.11, "File System Device".

mod active;
mod config;
mod device;
#[cfg(test)]
mod lost_worker;
mod queues;
mod vhost_user;

pub use config::{BadTag, ConfigSpace, TAG_MAX, Tag};
pub use device::{ActivateError, Options, Unfinished, VirtioFs};
pub use queues::{Queues, Workers};
pub use vhost_user::VhostUserFs;

pub use fsrv_transport::virtqueue::{
    FEATURES, QueueFault, VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
