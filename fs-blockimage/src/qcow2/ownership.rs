//! Which clusters are metadata, so that nothing else is taken for it.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{
    header::{Header, Table, Unusable},
    layout::{self, COMPRESSED, COPIED, OFFSET, numbers},
};

/// The way out of an image whose tables are wrong.
pub(super) const REPAIR: &str = "repair it with `qemu-img check -r all`";

/// What a cluster of metadata is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Purpose {
    Header,
    Reftable,
    L1,
    Refblock,
    /// An L2 table; with the flag that says that no snapshot has it too.
    Own,
    /// The same without it.
    Shared,
    Snapshots,
    SnapshotL1,
    /// An L2 table of a snapshot.
    SnapshotL2,
    Bitmaps,
    BitmapTable,
    Bitmap,
}

/// What an image says that its metadata is.
pub(super) struct Claims {
    all: Vec<(u64, Purpose)>,
    /// Of its file, in bytes.
    len: u64,
    cluster_bits: u32,
}

/// What belongs to metadata in an image that is to be changed.
#[derive(Debug)]
pub(super) struct Ownership {
    /// By where they are.
    owned: Vec<Owned>,
    /// Which blocks of refcounts there are.
    refblocks: Vec<bool>,
    refblock_bits: u32,
    cluster_bits: u32,
}

#[derive(Debug)]
struct Owned {
    cluster: u64,
    /// The least refcount that it must have.
    least: u32,
    /// Whether it is an L2 table that nobody has looked at yet.
    is_new: AtomicBool,
}

impl Claims {
    /// From the content of the two tables, in a file of `len` bytes.
    pub(super) fn new(
        header: &Header,
        reftable: &[u8],
        l1: &[u8],
        len: u64,
    ) -> Result<Self, Unusable> {
        if reftable.is_empty() {
            return Err(format!("its refcount table is empty; {REPAIR}"));
        }
        let all = vec![(0, Purpose::Header)];
        let mut new = Self { all, len, cluster_bits: header.cluster_bits };
        new.table(Purpose::Reftable, header.reftable.offset, header.reftable.len())?;
        new.table(Purpose::L1, header.l1.offset, header.l1.len())?;
        for entry in numbers(reftable).filter(|&entry| entry != 0) {
            new.cluster(Purpose::Refblock, entry)?;
        }
        for entry in numbers(l1).filter(|&entry| entry & OFFSET != 0) {
            let purpose = if entry & COPIED == 0 { Purpose::Shared } else { Purpose::Own };
            new.cluster(purpose, entry & OFFSET)?;
        }
        Ok(new)
    }

    /// Adds `len` bytes at `offset`.
    pub(super) fn table(&mut self, what: Purpose, offset: u64, len: u64) -> Result<(), Unusable> {
        let cluster = 1 << self.cluster_bits;
        if !offset.is_multiple_of(cluster) {
            return Err(format!("its {what} {offset:#x} is not valid; {REPAIR}"));
        }
        let Some(end) = offset.checked_add(len).filter(|&end| end <= self.len) else {
            return Err(format!("its {what} {offset:#x} is behind its end; {REPAIR}"));
        };
        self.all.extend((offset..end).step_by(1 << self.cluster_bits).map(|at| (at, what)));
        Ok(())
    }

    /// # Errors
    /// When `end`, where something ends, is not in the file.
    pub(super) fn is_inside(&self, what: Purpose, end: u64) -> Result<(), Unusable> {
        if end <= self.len {
            return Ok(());
        }
        Err(format!("its {what} {end:#x} is behind its end; {REPAIR}"))
    }

    /// Adds a cluster.
    pub(super) fn cluster(&mut self, what: Purpose, offset: u64) -> Result<(), Unusable> {
        self.table(what, offset, 1 << self.cluster_bits)
    }

    /// Who owns what; `reftable` is the content of the refcount table.
    ///
    /// # Errors
    /// When something is claimed twice that nobody can share.
    pub(super) fn settle(
        mut self,
        header: &Header,
        reftable: &[u8],
    ) -> Result<Ownership, Unusable> {
        self.all.sort_unstable();
        let mut owned: Vec<Owned> = Vec::with_capacity(self.all.len());
        let mut last = None;
        for (cluster, what) in self.all {
            match (owned.last_mut().filter(|last| last.cluster == cluster), last) {
                (Some(found), Some(before)) => {
                    if what != Purpose::SnapshotL2
                        || !matches!(before, Purpose::Shared | Purpose::SnapshotL2)
                    {
                        let why = "is where something else is";
                        return Err(format!("its {what} {cluster:#x} {why}; {REPAIR}"));
                    }
                    // A table that snapshots share was counted for one of them already.
                    found.least += u32::from(before == Purpose::SnapshotL2);
                }
                _ => owned.push(Owned {
                    cluster,
                    // Without its flag a snapshot has it too.
                    least: if what == Purpose::Shared { 2 } else { 1 },
                    is_new: matches!(what, Purpose::Own | Purpose::Shared).into(),
                }),
            }
            last = Some(what);
        }
        Ok(Ownership {
            owned,
            refblocks: numbers(reftable).map(|entry| entry != 0).collect(),
            refblock_bits: header.refblock_bits(),
            cluster_bits: self.cluster_bits,
        })
    }
}

impl Ownership {
    /// The clusters, with the least refcount that each must have.
    pub(super) fn clusters(&self) -> impl Iterator<Item = (u64, u64)> {
        self.owned.iter().map(|owned| (owned.cluster, owned.least.into()))
    }

    /// Whether snapshots have some of the L2 tables.
    pub(super) fn is_shared(&self) -> bool {
        self.owned.iter().any(|owned| owned.least > 1)
    }

    pub(super) fn owns(&self, cluster: u64) -> bool {
        self.find(cluster).is_some()
    }

    fn find(&self, cluster: u64) -> Option<&Owned> {
        let found = self.owned.binary_search_by_key(&cluster, |owned| owned.cluster);
        found.ok().and_then(|index| self.owned.get(index))
    }

    /// Checks an L2 table when it is loaded first, before it has entries that are not from the file: data is not where
    /// metadata is, or where `is_made` says that it is since, and refcounts exist.
    pub(super) fn check_l2(
        &self,
        at: u64,
        table: &[u8],
        is_made: impl Fn(u64) -> bool,
    ) -> Result<(), String> {
        let Some(owned) = self.find(at).filter(|owned| owned.is_new.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        if let Some(entry) = numbers(table).find(|&entry| !self.is_valid(entry, &is_made)) {
            return Err(format!("its L2 entry {entry:#x} is not valid; {REPAIR}"));
        }
        owned.is_new.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn is_valid(&self, entry: u64, is_made: impl Fn(u64) -> bool) -> bool {
        let range = match entry & COMPRESSED {
            0 if entry & OFFSET == 0 => return true,
            0 => entry & OFFSET..(entry & OFFSET) + 1,
            _ => layout::compressed(entry, self.cluster_bits),
        };
        let (first, last) = (range.start, range.end - 1);
        (first >> self.cluster_bits..=last >> self.cluster_bits).all(|cluster| {
            let at = cluster << self.cluster_bits;
            self.find(at).is_none()
                && !is_made(at)
                && self.refblocks.get((cluster >> self.refblock_bits) as usize) == Some(&true)
        })
    }
}

impl Table {
    fn len(self) -> u64 {
        self.entries * 8
    }
}

/// What is said to be at an offset.
impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header at",
            Self::Reftable => "refcount table at",
            Self::L1 => "L1 table at",
            Self::Refblock => "entry of the refcount table for",
            Self::Own | Self::Shared => "L1 entry for",
            Self::Snapshots => "snapshot table at",
            Self::SnapshotL1 => "snapshot's L1 table at",
            Self::SnapshotL2 => "snapshot's L1 entry for",
            Self::Bitmaps => "bitmap directory at",
            Self::BitmapTable => "bitmap's table at",
            Self::Bitmap => "bitmap's entry for",
        })
    }
}
