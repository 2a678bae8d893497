//! The real binary on real mounts. Needs root and `/dev/fuse`.

mod mount;
