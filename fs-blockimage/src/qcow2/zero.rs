//! Ranges that are to read as zeroes.

use std::{io, ops::Range};

use imago::Mapping;

use super::{
    Qcow2,
    read::{Pace, is_data},
};
use crate::disk::Zeroing;

impl Qcow2 {
    pub(crate) async fn zero(&self, offset: u64, len: u64, how: Zeroing) -> io::Result<()> {
        let end = offset.saturating_add(len).min(self.len());
        if offset < end {
            self.touch().await?;
        }
        self.zero_range(offset..end, how).await
    }

    /// The same for a range that may be behind the end.
    pub(super) async fn zero_range(&self, range: Range<u64>, how: Zeroing) -> io::Result<()> {
        let mut at = range.start;
        let mut pace = Pace::default();
        while at < range.end {
            let hole = self.hole_at(at, range.end).await?;
            at += hole;
            if hole == 0 {
                at += self.changing(async || self.zero_some(at, range.end, how).await).await?;
            }
            pace.step().await;
        }
        Ok(())
    }

    /// How many bytes at `at` read as zeroes without having a place; not more than there are to `end`.
    async fn hole_at(&self, at: u64, end: u64) -> io::Result<u64> {
        let _shared = self.access.read().await;
        let (mapping, found) = self.format.get_mapping(at, end - at).await?;
        Ok(if is_data(&mapping) { 0 } else { found.min(end - at).max(1) })
    }

    /// Zeroes from `at` on, but not behind `end`, and returns how many bytes.
    async fn zero_some(&self, at: u64, end: u64, how: Zeroing) -> io::Result<u64> {
        let _shared = self.access.read().await;
        let (mapping, found) = self.format.get_mapping(at, end - at).await?;
        if !is_data(&mapping) {
            return Ok(found.min(end - at).max(1));
        }
        // Where data can be overwritten, and nobody else shares it.
        let own = match mapping {
            Mapping::Raw { storage, offset, writable: true, .. } => Some((storage, offset)),
            _ => None,
        };
        let cluster = self.metadata.cluster();
        // Nobody sees the rest of the last cluster, and the length does not change now.
        let seen = if end == self.len() { self.next_cluster(end) } else { end };
        let whole = self.next_cluster(at + found).min(seen & !(cluster - 1));
        // A file that reads as the content does has zeroes there, whatever the map says.
        if self.version >= 3 && !self.is_raw && at.is_multiple_of(cluster) && whole > at {
            let (_, zeroed) = self.format.inner().ensure_zero_mapping(at, whole - at).await?;
            if let Some((storage, offset)) = own.filter(|_| how == Zeroing::Free) {
                // Who writes there next has to change the map first, and waits for this.
                storage.file_to_write(offset, zeroed)?.zero(offset, zeroed, how).await?;
            }
            return if zeroed == 0 {
                Err(io::Error::other("it zeroed nothing"))
            } else {
                Ok(zeroed)
            };
        }
        let mut len = found.min(end - at);
        if self.version >= 3 && !self.is_raw && self.next_cluster(at) > at {
            len = len.min(self.next_cluster(at) - at);
        }
        match own {
            Some((storage, offset)) => {
                storage.file_to_write(offset, len)?.zero(offset, len, how).await.map(|()| len)
            }
            None => self.zero_new(at, len, how).await,
        }
    }

    /// Gives the image a place with zeroes.
    async fn zero_new(&self, at: u64, len: u64, how: Zeroing) -> io::Result<u64> {
        let cluster = self.metadata.cluster();
        let inside = at & (cluster - 1);
        let mut len = len;
        if inside != 0 || len < cluster {
            len = len.min(cluster - inside);
            if self.is_compressed(at - inside).await? {
                let range = inside as usize..(inside + len) as usize;
                let change = |bytes: &mut [u8]| {
                    bytes[range].fill(0);
                    Ok(())
                };
                return self.replace_cluster(at - inside, change).await.map(|()| len);
            }
        } else {
            len &= !(cluster - 1);
        }
        let mapping = self.format.prepare_data_mapping(at, len, true).await?;
        let len = mapping.length().min(len);
        let offset = mapping.offset();
        mapping.storage().file_to_write(offset, len)?.zero(offset, len, how).await?;
        self.written(offset + len);
        self.format.commit_data_mapping(mapping).await?;
        Ok(len)
    }

    /// The first cluster that begins at `at` or behind it.
    pub(super) fn next_cluster(&self, at: u64) -> u64 {
        // Sizes are below 2^62.
        at.next_multiple_of(self.metadata.cluster())
    }
}
