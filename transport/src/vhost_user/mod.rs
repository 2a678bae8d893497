//! vhost-user: a front-end, such as QEMU or cloud-hypervisor, has the virtual machine; this process
//! has the device, and serves its rings.
//!
//! A [`Listener`] is where front-ends connect. [`serve_front_end`] does what one of them asks, on a
//! thread of its own, and gives the rings that it starts to a [`Device`], which hands them to workers.

mod connection;
mod error;
mod file;
mod handler;
mod inherited;
mod listener;
mod log;
mod memory;
mod peer;
mod requests;
mod rings;
mod session;
mod signal;
mod wait;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use error::{Error, ListenError, MemoryError, Refusal};
pub use listener::{Closer, FrontEnd, Listener, Waker};
pub use peer::Peer;
pub use requests::{Ended, serve_front_end};

use crate::{transport::Config, virtqueue::Prepared};

/// A device, for one front-end at a time.
pub trait Device: Send + Sync {
    /// What the driver reads as the configuration of the device.
    fn config_space(&self) -> Vec<u8>;

    /// The most queues that a front-end may use, at most 256.
    fn queues_max(&self) -> u16;

    /// The protocol of the messages in the queues.
    fn protocol(&self) -> Config;

    /// How long queue `index` looks for the next message before it sleeps.
    fn poll(&self, index: u16) -> Duration;

    /// Has a worker serve `queue`. One that cannot be served is dropped, and ends the session of the front-end.
    fn serve(&self, index: u16, queue: Prepared);

    /// All queues are stopped, and nothing is in flight: forget the client.
    fn reset(&self);

    /// What is being done for this client, for people.
    fn in_flight(&self) -> Vec<String>;
}
