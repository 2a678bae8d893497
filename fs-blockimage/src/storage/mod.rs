//! Files of the host that images are made of.
#![expect(
    unsafe_code,
    reason = "fcntl takes a pointer to a struct flock, and rustix has no F_OFD_ commands"
)]

mod file;
mod lock;
pub(crate) mod probe;

pub(crate) use file::{HostFile, Seek, Way};
pub(crate) use lock::Access;
