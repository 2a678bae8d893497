//! A disk image as one raw file.
//!
//! [`Disk`] is an open image: its guest-visible content, whatever the format. [`BlockImage`] makes it a [`FileSystem`]
//! with a single file, as the root of a mount point or as the only name in a directory.
//!
//! [`FileSystem`]: fsrv::FileSystem

mod attributes;
mod disk;
mod error;
mod filesystem;
mod joined;
mod open;
mod probe;
mod qcow2;
mod raw;
mod storage;

pub use attributes::Owner;
pub use disk::{Disk, Stat, Zeroing};
pub use error::OpenError;
pub use filesystem::{BlockImage, Config, Place};
pub use open::{Format, Options};
#[cfg(feature = "testing")]
pub use storage::probe::{HostOp, Probe};
