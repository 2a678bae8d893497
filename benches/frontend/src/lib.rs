//! A virtio-fs client over vhost-user, without a virtual machine: its own guest memory, its own rings, its own FUSE messages.
//!
//! It shares no code with the servers that it tests. It behaves, as [`Mount`] and [`Client`], or misbehaves: [`Socket`] sends any
//! bytes, [`Ring`](queue::Ring) writes any entries, [`Region`] gives its memfd away.

mod error;
mod frontend;
mod log;
mod memory;
pub mod queue;
mod socket;
pub mod vhost_user;

pub use error::{Error, Result};
pub use frontend::{Frontend, FsConfig, Wanted};
pub use log::{DirtyLog, PAGE};
pub use memory::{Arena, Region, Segment};
pub use queue::{Form, Queue, QueueOptions, Used};
pub use socket::{Message, Socket};
