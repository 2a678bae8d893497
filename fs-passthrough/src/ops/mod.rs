//! The operations, by subject.

pub(crate) mod attr;
pub(crate) mod create;
pub(crate) mod data;
pub(crate) mod dir;
pub(crate) mod ioctl;
pub(crate) mod lock;
pub(crate) mod lookup;
pub(crate) mod name;
pub(crate) mod open;
pub(crate) mod space;
pub(crate) mod xattr;
