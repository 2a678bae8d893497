//! The dirty log: a bit a page of guest memory.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::error::{Error, Result};

/// The bytes that one bit stands for.
pub const PAGE: u64 = 4096;

/// A log shared with the back-end.
#[derive(Debug)]
pub struct DirtyLog {
    map: MmapRegion,
}

impl DirtyLog {
    pub(crate) fn new(file: File, size: u64) -> Result<Self> {
        file.set_len(size).map_err(Error::std("cannot size the dirty log"))?;
        let map = MmapRegion::from_file(FileOffset::new(file, 0), size as usize).map_err(|e| {
            Error::Io { what: "cannot map the dirty log", source: std::io::Error::other(e) }
        })?;
        Ok(DirtyLog { map })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.map.file_offset().expect("the log has a file").file().as_fd()
    }

    /// The numbers of the pages that are marked, which are unmarked with that.
    pub fn take(&self) -> Vec<u64> {
        let mut pages = Vec::new();
        for at in 0..self.map.size() {
            let byte: &AtomicU8 = self.map.get_atomic_ref(at).expect("inside of the map");
            if byte.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let bits = byte.swap(0, Ordering::AcqRel);
            pages.extend((0..8).filter(|bit| bits >> bit & 1 == 1).map(|bit| at as u64 * 8 + bit));
        }
        pages
    }
}
