//! A mount point served through `/dev/fuse`.
//!
//! [`mount`] gives a [`Mount`], which ends with the mount, and a [`Device`]. Each worker gets a clone
//! of the device ([`Device::try_clone`], made before anything is served) and makes a
//! [`FuseTransport`] of it on its own thread.
#![expect(unsafe_code, reason = "a descriptor is cloned by ioctl and watched by epoll")]

mod channel;
mod device;
mod direct;
mod error;
#[cfg(test)]
mod file_tests;
mod find;
mod lock;
mod mount;
mod options;
mod point;
mod program;
#[cfg(test)]
mod tests;

pub use channel::{FuseCompletion, FuseTransport};
pub use device::Device;
pub use error::MountError;
pub use mount::{Mount, mount, remount};
pub use options::MountOptions;
