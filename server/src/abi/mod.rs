//! The FUSE protocol at revision 7.45, as `<linux/fuse.h>` of Linux 6.18 names it.
//!
//! Sizes are asserted at compile time. Nothing behind [`crate::op`] sees these types.
#![allow(non_camel_case_types, reason = "the names can be searched for in the kernel's header")]
#![expect(missing_docs, reason = "the kernel's header documents them")]

mod flags;
mod reply;
mod request;

pub use flags::*;
pub use reply::*;
pub use request::*;

/// The protocol's major version.
pub const FUSE_KERNEL_VERSION: u32 = 7;
/// The newest minor version that is decoded here.
pub const FUSE_KERNEL_MINOR_VERSION: u32 = 45;
/// The oldest minor version that is served.
pub const FUSE_MIN_MINOR_VERSION: u32 = 31;
/// The root's node id.
pub const FUSE_ROOT_ID: u64 = 1;
/// Set in the unique id of a request that the kernel sends again.
pub const FUSE_UNIQUE_RESEND: u64 = 1 << 63;
