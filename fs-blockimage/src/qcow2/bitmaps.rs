//! Bitmaps in which others note what has changed in an image.
//!
//! They are not kept up here. One that ought to be is marked as "in use" before the first change, as QEMU leaves it when
//! it is killed: nobody takes it for true any more, and `qemu-img bitmap --remove` removes it. Those that are disabled
//! are about the past and stay.

use std::{io, sync::PoisonError};

use super::{
    header::Table,
    header::{ENTRIES_MAX, Fault, u32_at, u64_at},
    layout::{OFFSET, numbers},
    metadata::Metadata,
    ownership::{Claims, Purpose},
};

/// The most bitmaps, and the most bytes of each one's entry in the directory: QEMU's limits.
const BITMAPS_MAX: u32 = 65_535;
const ENTRY_MAX: u64 = 1024;

/// Bytes of the extension, and of what all entries have.
const EXTENSION: usize = 24;
const ENTRY: usize = 24;
const FLAGS: usize = 12;

const IN_USE: u32 = 1;
const AUTO: u32 = 1 << 1;
const FLAGS_KNOWN: u32 = 7;

const INVALID: &str = "its bitmaps are not valid; remove them with `qemu-img bitmap --remove`";

/// A bitmap of the image.
#[derive(Debug)]
pub(super) struct Bitmap {
    /// Where its flags are.
    at: u64,
    flags: u32,
}

/// Which bitmaps do not hold any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Those that note changes.
    Content,
    /// All: each has a length.
    Length,
}

impl Metadata {
    /// Claims what the bitmaps have, and returns them.
    ///
    /// # Errors
    /// What the host said, and what of it is not valid.
    pub(super) async fn claim_bitmaps(
        &self,
        extension: &[u8],
        claims: &mut Claims,
    ) -> Result<Vec<Bitmap>, Fault> {
        if extension.len() != EXTENSION {
            return Err(INVALID.to_owned().into());
        }
        let (count, len) = (u32_at(extension, 0), u64_at(extension, 8));
        let offset = u64_at(extension, 16);
        if !(1..=BITMAPS_MAX).contains(&count) || len > u64::from(count) * ENTRY_MAX * 2 {
            return Err(INVALID.to_owned().into());
        }
        claims.table(Purpose::Bitmaps, offset, len)?;
        let directory = self.view(offset, len as usize).await?;
        let mut bitmaps = Vec::new();
        let mut left = ENTRIES_MAX;
        let mut at = 0;
        while at < directory.len() {
            let entry = directory.get(at..at + ENTRY).ok_or_else(|| INVALID.to_owned())?;
            let flags = u32_at(entry, FLAGS);
            let table = Table { offset: u64_at(entry, 0), entries: u32_at(entry, 8).into() };
            left = left.checked_sub(table.entries).ok_or_else(|| INVALID.to_owned())?;
            if flags & !FLAGS_KNOWN != 0 {
                return Err(INVALID.to_owned().into());
            }
            claims.table(Purpose::BitmapTable, table.offset, table.entries * 8)?;
            for entry in numbers(&self.view_table(table).await?).filter(|&entry| entry > 1) {
                if entry & !OFFSET != 0 {
                    return Err(INVALID.to_owned().into());
                }
                claims.cluster(Purpose::Bitmap, entry)?;
            }
            bitmaps.push(Bitmap { at: offset + (at + FLAGS) as u64, flags });
            let name = u32_at(entry, 16) & 0xffff;
            let more = u64::from(u32_at(entry, 20)) + u64::from(name);
            at += (ENTRY as u64 + more).next_multiple_of(8) as usize;
        }
        if at != directory.len() || bitmaps.len() as u64 != u64::from(count) {
            return Err(INVALID.to_owned().into());
        }
        Ok(bitmaps)
    }

    /// Whether there are bitmaps that [`Metadata::distrust`] has to mark.
    pub(super) fn has_bitmaps_for(&self, change: Change) -> bool {
        self.bitmaps().iter().any(|bitmap| bitmap.is_for(change))
    }

    /// Marks the bitmaps that a change makes wrong.
    ///
    /// # Errors
    /// What the host said.
    pub(super) async fn distrust(&self, change: Change) -> io::Result<()> {
        let marked: Vec<_> = {
            let mut bitmaps = self.bitmaps();
            let wrong = bitmaps.iter_mut().filter(|bitmap| bitmap.is_for(change));
            wrong.map(|bitmap| (bitmap.at, bitmap.flags | IN_USE)).collect()
        };
        for &(at, flags) in &marked {
            self.put(at, &flags.to_be_bytes()).await?;
        }
        for bitmap in self.bitmaps().iter_mut().filter(|bitmap| bitmap.is_for(change)) {
            bitmap.flags |= IN_USE;
        }
        if !marked.is_empty() {
            let path = self.file().path();
            tracing::warn!(
                "{}: {} of its bitmaps do not note what changes here, and are marked as inconsistent",
                path.display(),
                marked.len()
            );
        }
        Ok(())
    }

    fn bitmaps(&self) -> std::sync::MutexGuard<'_, Vec<Bitmap>> {
        self.bitmaps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bitmap {
    fn is_for(&self, change: Change) -> bool {
        let is_wrong = change == Change::Length || self.flags & AUTO != 0;
        is_wrong && self.flags & IN_USE == 0
    }
}
