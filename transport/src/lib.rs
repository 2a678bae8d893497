//! Transports of the FUSE protocol, the memory of their clients, and file I/O that lands in it.
//!
//! This crate moves messages and bytes. It knows no opcode: what it must know of the protocol is
//! told to it in a [`transport::Config`].
//!
//! - [`mem`]: buffers that own their memory and are moved into file I/O.
//! - [`io`]: file operations as owned futures, by io_uring or by a pool of threads.
//! - [`transport`]: what a transport is.
//! - [`fuse_dev`]: a mount point served through `/dev/fuse`.
//! - [`virtqueue`]: the rings of a virtual machine.
//! - [`worker`]: one OS thread with a Tokio runtime, pinned to a CPU.
//! - `testing` (feature `testing`): a transport in memory.

pub mod fuse_dev;
pub mod io;
pub mod mem;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport;
pub mod vhost_user;
pub mod virtqueue;
pub mod worker;

pub use virtio_queue;
pub use vm_memory;

pub use transport::{Completion, Config, Message, Notifier, Transport};
