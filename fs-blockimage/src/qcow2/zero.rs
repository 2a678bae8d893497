//! Ranges that are to read as zeroes.

use std::{io, ops::Range};

use ::imago::{Mapping, ShallowMapping};

use super::{
    Qcow2,
    imago::{self, Discard, Handle},
    read::{Pace, is_data},
};
use crate::disk::Zeroing;

/// What happens to the space of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Space {
    Free,
    Keep,
    /// Nobody sees the range, and who makes the image longer zeroes it.
    CutOff,
}

impl Space {
    fn on_host(self) -> Zeroing {
        match self {
            Self::Free | Self::CutOff => Zeroing::Free,
            Self::Keep => Zeroing::Keep,
        }
    }
}

/// What is where something is to be zeroed.
enum Found {
    /// So many bytes that need no change.
    Hole(u64),
    /// What can be freed without a place for a table.
    Own,
    Other,
}

impl Qcow2 {
    pub(crate) async fn zero(&self, offset: u64, len: u64, how: Zeroing) -> io::Result<()> {
        let end = offset.saturating_add(len).min(self.len());
        if offset < end {
            self.touch().await?;
        }
        let space = match how {
            Zeroing::Free => Space::Free,
            Zeroing::Keep => Space::Keep,
        };
        self.zero_range(offset..end, space).await
    }

    /// The same for a range that may be behind the end.
    pub(super) async fn zero_range(&self, range: Range<u64>, how: Space) -> io::Result<()> {
        let mut at = range.start;
        let mut pace = Pace::default();
        while at < range.end {
            at += match self.found_at(at, range.end, how).await? {
                Found::Hole(len) => len,
                Found::Own => {
                    self.freeing(async || self.zero_own(at, range.end, how).await).await?
                }
                Found::Other => {
                    self.changing(async || self.zero_some(at, range.end, how).await).await?
                }
            };
            pace.step().await;
        }
        Ok(())
    }

    /// What is at `at`, not behind `end`.
    async fn found_at(&self, at: u64, end: u64, how: Space) -> io::Result<Found> {
        let _shared = self.access.read().await;
        let (mapping, found) = self.format.get_mapping(at, end - at).await?;
        Ok(match mapping {
            Mapping::Eof { .. } | Mapping::Zero { explicit: false, .. } => {
                Found::Hole(found.min(end - at).max(1))
            }
            Mapping::Zero { .. } if !self.may_have_space(how) => {
                Found::Hole(found.min(end - at).max(1))
            }
            Mapping::Zero { .. } | Mapping::Raw { writable: true, .. }
                if !self.metadata.has_shared_tables() =>
            {
                Found::Own
            }
            _ => Found::Other,
        })
    }

    /// Whether zeroes may have clusters that are to be freed.
    fn may_have_space(&self, how: Space) -> bool {
        how != Space::Keep && self.data.is_none()
    }

    /// Zeroes from `at` on, but not behind `end`, without allocating anything, and returns how many bytes; 0 where what is
    /// there has changed meanwhile.
    async fn zero_own(&self, at: u64, end: u64, how: Space) -> io::Result<u64> {
        match self.found_at(at, end, how).await? {
            Found::Hole(len) => Ok(len),
            Found::Own => self.zero_some(at, end, how).await,
            Found::Other => Ok(0),
        }
    }

    /// Zeroes from `at` on, but not behind `end`, and returns how many bytes.
    async fn zero_some(&self, at: u64, end: u64, how: Space) -> io::Result<u64> {
        let _shared = self.access.read().await;
        let (mapping, found) = self.format.get_mapping(at, end - at).await?;
        let is_zero = !is_data(&mapping);
        let found_len = found.min(end - at).max(1);
        let is_hole =
            matches!(mapping, Mapping::Eof { .. } | Mapping::Zero { explicit: false, .. });
        if is_hole || is_zero && !self.may_have_space(how) {
            return Ok(found_len);
        }
        // Where data can be overwritten, and nobody else shares it.
        let own = match mapping {
            Mapping::Raw { storage, offset, writable: true, .. } => Some((storage, offset)),
            _ => None,
        };
        let cluster = self.metadata.cluster();
        let discard = self.discard(how);
        if discard == Some(Discard::ToBacking)
            && let (ShallowMapping::Indirect { .. }, len) =
                self.format.get_shallow_mapping(at, found_len).await?
        {
            return Ok(len.max(1));
        }
        // Nobody sees the rest of the last cluster, and the length does not change now.
        let seen = if end >= self.len() { self.next_cluster(end) } else { end };
        let whole = self.next_cluster(at + found).min(seen & !(cluster - 1));
        // A file that reads as the content does has zeroes there, whatever the map says.
        let by_map = !self.is_raw && (self.version >= 3 || discard.is_some());
        if by_map && at.is_multiple_of(cluster) && whole > at {
            return self.zero_clusters(at, whole - at, own, how).await;
        }
        let mut len = found.min(end - at);
        if by_map && self.next_cluster(at) > at {
            len = len.min(self.next_cluster(at) - at);
        }
        match own {
            _ if is_zero => Ok(len),
            Some((storage, offset)) => storage
                .file_to_write(offset, len)?
                .zero(offset, len, how.on_host())
                .await
                .map(|()| len),
            None => self.zero_new(at, len, how).await,
        }
    }

    /// Zeroes whole clusters by the map, those of one table at the most. `own` is where their data is, when nobody shares
    /// it.
    async fn zero_clusters(
        &self,
        at: u64,
        len: u64,
        own: Option<(&Handle, u64)>,
        how: Space,
    ) -> io::Result<u64> {
        if let Some((storage, offset)) = own {
            // What is no data is not freed.
            storage.file_to_write(offset, len)?;
        }
        let zeroed = match self.discard(how) {
            Some(discard) => imago::discard(&self.format, at, len, discard).await?,
            None => self.format.inner().ensure_zero_mapping(at, len).await?.1,
        };
        match (&self.data, own) {
            (None, Some((_, offset))) => self.metadata.note_unused(offset, zeroed),
            // Who writes there next has to change the map first, and waits for this.
            (Some(data), Some((_, offset))) if how != Space::Keep => {
                data.zero(offset, zeroed, how.on_host()).await?;
            }
            _ => {}
        }
        if zeroed == 0 {
            return Err(io::Error::other("it zeroed nothing"));
        }
        Ok(zeroed)
    }

    /// How whole clusters are freed, if they are.
    fn discard(&self, how: Space) -> Option<Discard> {
        match how {
            Space::Keep => None,
            Space::Free | Space::CutOff if self.version >= 3 => Some(Discard::ToZeroes),
            // QEMU's way: zeroes over a backing file can only be written, as long as they are seen.
            Space::Free if self.backing_len > 0 => None,
            Space::Free | Space::CutOff => Some(Discard::ToBacking),
        }
    }

    /// Gives the image a place with zeroes.
    async fn zero_new(&self, at: u64, len: u64, how: Space) -> io::Result<u64> {
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
        let mapping = self.prepare(at, len).await?;
        let len = mapping.length().min(len);
        let offset = mapping.offset();
        mapping.storage().file_to_write(offset, len)?.zero(offset, len, how.on_host()).await?;
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
