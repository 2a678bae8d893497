//! Buffers that own their memory.
//!
//! A buffer is *moved* into a file operation and comes back with its result, so that a dropped
//! future never leaves the kernel writing into memory that has another use.
#![expect(
    unsafe_code,
    reason = "pages are mapped here, guests' memory is reached, and addresses are handed to the kernel"
)]

mod buf;
mod chain;
mod guest;
mod pages;
mod pool;
mod truncated;

pub use buf::{Filled, InBuf, NoSpace, OutBuf};
pub use guest::{DirtyLog, GuestMap, Outside, Region};
pub use pages::{PAGE, page_size};
pub use pool::Pool;
pub use truncated::{Watched, survive_truncation};

pub(crate) use chain::{Chain, Slices};
pub(crate) use pool::PooledBuf;
