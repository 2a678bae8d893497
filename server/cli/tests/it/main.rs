//! The real binary on real mounts. Needs root and `/dev/fuse`.

mod bad_input;
mod direct_io;
mod engine;
mod fstab;
mod image;
mod lifecycle;
mod mount;
mod no_threads;
mod property;
mod seeds;
mod semantics;
mod served;
mod vhost;
