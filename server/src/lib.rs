//! An async server framework for FUSE and virtio-fs.
//!
//! One loop ([`serve`]) takes messages from any transport, turns each into a future, and runs it
//! against an async [`FileSystem`]. Requests are decoded once into types ([`op`]), and a filesystem
//! returns its answer: it never sees a wire header, a unique id to echo or a reply channel.

pub mod abi;
mod context;
mod errno;
mod fs;
mod init;
pub mod layer;
mod name;
pub mod notify;
pub mod op;
mod serve;
mod session;
mod slots;
mod stats;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;

pub use context::{Context, Parked};
pub use errno::{Errno, Result};
pub use fs::{FileSystem, Stats};
pub use init::{Init, Limits};
pub use name::{LookupName, NAME_MAX, Name, NameBuf};
pub use serve::serve;
pub use session::Session;
pub use stats::SessionStats;
pub use types::{Attr, Attributes, Entry, Fh, NodeId, Opened};
