//! A directory of the host as an fsrv filesystem.
//!
//! Names are looked up one component at a time below the shared directory, and a file is held by a
//! file handle, without a descriptor, where the host allows it. What is promised, operation by
//! operation, stands in docs/semantics.md.
//!
//! Each worker that serves a [`Passthrough`] runs [`prepare_worker`] first.

mod config;
mod crossings;
mod descriptors;
mod dircache;
mod filesystem;
mod handle;
mod inode;
mod locks;
#[cfg(test)]
mod model;
mod mount;
mod mutex;
mod ops;
mod prune;
mod remote;
mod removed;
mod reserve;
mod shared;
mod suid;
mod sync;
mod sys;

pub use config::{CachePolicy, Config, InodeFileHandles};
pub use filesystem::Passthrough;
pub use shared::SetupError;
pub use sys::creds::prepare_worker;
