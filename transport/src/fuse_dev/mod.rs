//! A mount point served through `/dev/fuse`.
