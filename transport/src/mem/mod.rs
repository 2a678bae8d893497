//! Buffers that own their memory.
//!
//! A buffer is *moved* into a file operation and comes back with its result, so that a dropped
//! future never leaves the kernel writing into memory that has another use.
#![expect(unsafe_code, reason = "pages are mapped here and their addresses handed to the kernel")]

mod buf;
mod pages;
mod pool;

pub use buf::{Filled, InBuf, NoSpace, OutBuf};
pub use pages::PAGE;
pub use pool::Pool;

pub(crate) use pool::PooledBuf;
