//! A virtio-fs client over vhost-user, without a virtual machine: its own guest memory, its own rings, its own FUSE messages.
//!
//! It shares no code with the servers that it tests. It behaves, as [`Mount`] and [`Client`], or misbehaves: [`hostile`] has wrong messages and chains, [`Socket`] sends any
//! bytes, [`Ring`](queue::Ring) writes any entries, [`Region`] gives its memfd away.

pub mod abi;
mod client;
mod error;
mod frontend;
pub mod hostile;
mod log;
mod memory;
mod mount;
pub mod queue;
mod socket;
pub mod tree;
pub mod vhost_user;

pub use client::{
    Call, Caller, Client, ClientOptions, Cut, Done, Entries, Entry, Framing, Payload, lock,
};
pub use error::{Error, Result};
pub use frontend::{Frontend, FsConfig, Wanted};
pub use log::{DirtyLog, PAGE};
pub use memory::{Arena, Region, Segment};
pub use mount::{Mount, MountOptions};
pub use queue::{Form, Queue, QueueOptions, Used};
pub use socket::{Message, Socket};
