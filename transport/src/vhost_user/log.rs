//! The dirty log: which pages of the guest its owner must copy again, when it moves the guest.
#![expect(unsafe_code, reason = "bits are set in memory that the front-end shares")]

use std::{
    fs::File,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use super::{error::MemoryError, memory::Mapping};
use crate::mem::DirtyLog;

/// Bytes of the guest for which there is one bit, whatever the size of pages.
const LOG_PAGE: u64 = 4096;

/// The log of a front-end, which may be switched and replaced while queues run.
#[derive(Default)]
pub(super) struct Log {
    is_on: AtomicBool,
    bits: RwLock<Option<Mapping>>,
}

impl Log {
    /// Notes changes in the `len` bytes of `file` from `offset` on from now on. When this returns,
    /// nothing touches the log before any more.
    pub(super) fn replace(&self, file: &File, offset: u64, len: u64) -> Result<(), MemoryError> {
        let new = Mapping::new(file, offset, len)?;
        let old = self.bits.write().unwrap_or_else(PoisonError::into_inner).replace(new);
        drop(old);
        Ok(())
    }

    /// Whether changes are noted.
    pub(super) fn switch(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::SeqCst);
    }
}

impl DirtyLog for Log {
    fn mark(&self, start: u64, len: u64) {
        if !self.is_on.load(Ordering::SeqCst) || len == 0 {
            return;
        }
        let bits = self.bits.read().unwrap_or_else(PoisonError::into_inner);
        let Some(bits) = &*bits else { return };
        let last = start.saturating_add(len - 1) / LOG_PAGE;
        // Pages that the log does not have are none of the front-end's memory.
        let end = (bits.len() as u64).saturating_mul(8);
        for page in (start / LOG_PAGE..=last).take_while(|&page| page < end) {
            set(bits, page);
        }
    }
}

/// Sets the bit of `page`, which the log has.
fn set(bits: &Mapping, page: u64) {
    // SAFETY: the byte is in the mapping: `page` is below eight times its length.
    let byte = unsafe { bits.start().add((page / 8) as usize) };
    // SAFETY: the byte is mapped as long as `bits` is held, and the front-end, too, changes it by
    // atomic operations only.
    let byte = unsafe { AtomicU8::from_ptr(byte.as_ptr()) };
    // Also where it is set already: the front-end may be about to clear it.
    byte.fetch_or(1 << (page % 8), Ordering::SeqCst);
}
