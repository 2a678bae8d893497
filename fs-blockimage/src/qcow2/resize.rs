//! Changes of length.

use std::{io, ops::Range};

use imago::format::PreallocateMode;

use super::{
    Qcow2,
    bitmaps::Change,
    header::{self, ENTRIES_MAX},
    read::Pace,
    zero::Space,
};
use crate::disk::{Resize, Zeroing};

/// Lengths are numbers of these, in bytes.
const SECTOR: u64 = 512;

impl Qcow2 {
    pub(crate) async fn resize(&self, to: Resize) -> io::Result<()> {
        let _alone = self.resizing.lock().await;
        let old = self.len();
        check(to, old)?;
        let Some(new) = to.from(old) else { return Ok(()) };
        if !self.metadata.may_resize() {
            // QEMU's answer.
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        self.touch().await?;
        if self.metadata.has_bitmaps_for(Change::Length) {
            let mut changes = self.allocating.lock().await;
            self.metadata.distrust(Change::Length).await?;
            self.commit(&mut changes).await?;
        }
        if new < old {
            self.shrink(old, new).await?;
            self.resize_data(new).await
        } else {
            // What is behind the end is not to be seen.
            self.cut_data(old).await?;
            self.resize_data(new).await?;
            self.grow(old, new, to.allocates()).await
        }
    }

    /// Gives the file of the data, where that is another, the length of the content.
    async fn resize_data(&self, len: u64) -> io::Result<()> {
        match self.data.as_deref().filter(|data| !data.is_block_device()) {
            Some(data) if data.len()? != len => data.set_len(len).await,
            _ => Ok(()),
        }
    }

    /// Cuts the file of the data off at `len`.
    async fn cut_data(&self, len: u64) -> io::Result<()> {
        match self.data.as_deref() {
            Some(data) if data.len()? > len => self.resize_data(len).await,
            _ => Ok(()),
        }
    }

    async fn shrink(&self, old: u64, new: u64) -> io::Result<()> {
        self.changing(async || self.metadata.set_len(new).await).await?;
        // Whoever still uses the old length is to be done before. What is below the image shows through only where the
        // file knows that it has ended.
        self.commit(&mut *self.allocating.lock().await).await?;
        drop(self.access.write().await);
        self.zero_range(new..self.next_cluster(old), Space::CutOff).await?;
        self.commit(&mut *self.allocating.lock().await).await
    }

    async fn grow(&self, old: u64, new: u64, allocates: bool) -> io::Result<()> {
        let covered = self.metadata.cover();
        if new > covered {
            self.grow_table(new).await?;
        }
        // There may be something behind the end, and in a longer backing file.
        let zeroed = self.next_cluster(new).min(covered.max(self.backing_len));
        self.zero_range(old..zeroed.max(old), Space::Free).await?;
        if allocates {
            self.allocate(old..new).await?;
        }
        self.changing(async || self.metadata.set_len(new).await).await
    }

    /// Makes the L1 table long enough for `len` bytes.
    async fn grow_table(&self, len: u64) -> io::Result<()> {
        let cluster_bits = self.metadata.cluster().ilog2();
        let entries = len
            .div_ceil(header::cover(1, cluster_bits))
            .next_multiple_of(self.metadata.cluster() / 8);
        if entries > ENTRIES_MAX {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        // The new table has the entries of the old one. It is written where the order of a commit has its place, so
        // nothing else is to be brought to the file with it.
        let mut changes = self.allocating.lock().await;
        self.commit(&mut changes).await?;
        let size = header::cover(entries, cluster_bits);
        let grow = async || self.format.resize_grow(size, PreallocateMode::None).await;
        let result = self.noting(&mut changes, grow).await;
        self.commit(&mut changes).await?;
        result
    }

    /// Gives space to a range that has none.
    async fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        let mut pace = Pace::default();
        while at < range.end {
            at += self.changing(async || self.allocate_some(at, range.end - at).await).await?;
            pace.step().await;
        }
        Ok(())
    }

    async fn allocate_some(&self, at: u64, len: u64) -> io::Result<u64> {
        let _shared = self.access.read().await;
        let mapping = self.prepare(at, len).await?;
        let (offset, len) = (mapping.offset(), mapping.length().min(len));
        let file = mapping.storage().file_to_write(offset, len)?;
        // Other data may have been there before.
        if !mapping.is_nonblocking() && offset < file.len()? {
            file.zero(offset, len, Zeroing::Keep).await?;
        }
        file.allocate(offset, len).await?;
        self.written(offset + len);
        self.format.commit_data_mapping(mapping).await?;
        Ok(len)
    }
}

/// The length that the header gets: QEMU knows no others, and ignores what is behind the last whole sector.
///
/// Who appends to the image counts in bytes, so what a client sees is exact as long as it is served.
pub(super) fn in_sectors(len: u64) -> u64 {
    len.next_multiple_of(SECTOR)
}

/// An error for a length that nothing but an image's header could have.
fn check(to: Resize, old: u64) -> io::Result<()> {
    match to {
        Resize::To(len) if len != old && !len.is_multiple_of(SECTOR) => {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
        Resize::To(len) | Resize::AtLeast(len) | Resize::Allocate(len)
            if len > u64::MAX - SECTOR =>
        {
            Err(io::Error::from_raw_os_error(libc::EFBIG))
        }
        _ => Ok(()),
    }
}
