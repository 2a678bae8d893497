//! The real binary on real mounts. Needs root and `/dev/fuse`.

mod bad_input;
mod direct_io;
mod engine;
mod fstab;
mod hung;
mod image;
mod lifecycle;
mod mount;
mod no_threads;
mod property;
mod seeds;
pub(crate) mod semantics;
mod served;
mod vhost;
