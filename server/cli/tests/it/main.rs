//! The real binary on real mounts. Needs root and `/dev/fuse`.

mod direct_io;
mod mount;
mod property;
mod seeds;
mod served;
