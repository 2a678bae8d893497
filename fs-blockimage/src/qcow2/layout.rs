//! Which cluster of an image holds what.

use std::{collections::HashSet, io};

use super::header::{Header, Table};

/// An entry of the refcount table without what is reserved.
const REFBLOCK: u64 = !0x1ff;
/// An entry of the L1 table without flags.
const L2_TABLE: u64 = 0x00ff_ffff_ffff_fe00;
/// The flag of an L1 entry whose table belongs to nobody else.
const COPIED: u64 = 1 << 63;

/// What is where, of the metadata that is written in an order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) reftable: Table,
    pub(super) l1: Table,
    pub(super) refblocks: HashSet<u64>,
}

/// What a cluster of metadata is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Header,
    Reftable,
    Refblock,
    L1,
    L2,
}

impl Layout {
    pub(super) fn kind(&self, cluster: u64) -> Kind {
        match cluster {
            0 => Kind::Header,
            at if self.reftable.contains(at) => Kind::Reftable,
            at if self.refblocks.contains(&at) => Kind::Refblock,
            at if self.l1.contains(at) => Kind::L1,
            _ => Kind::L2,
        }
    }

    /// The layout with these tables; `entries` is the content of the refcount table.
    pub(super) fn new(reftable: Table, l1: Table, entries: &[u8]) -> Self {
        let refblocks =
            numbers(entries).map(|entry| entry & REFBLOCK).filter(|&at| at != 0).collect();
        Self { reftable, l1, refblocks }
    }
}

/// Checks what a writer relies on, and says whether L2 tables are shared with snapshots.
///
/// `reftable` and `l1` are the contents of the tables; `refcount` tells that of a cluster.
pub(super) async fn check(
    header: &Header,
    reftable: &[u8],
    l1: &[u8],
    refcount: impl AsyncFn(u64) -> io::Result<u64>,
) -> io::Result<Result<bool, String>> {
    const REPAIR: &str = "repair it with `qemu-img check -r all`";
    let mut seen = HashSet::new();
    for entry in numbers(reftable).filter(|&entry| entry != 0) {
        if !seen.insert(entry) {
            return Ok(Err(format!("two entries of its refcount table are {entry:#x}; {REPAIR}")));
        }
    }
    let mut is_shared = false;
    for entry in numbers(l1) {
        let table = entry & L2_TABLE;
        if table == 0 {
            continue;
        }
        if !table.is_multiple_of(header.cluster()) || !seen.insert(table) {
            return Ok(Err(format!("its L1 entry {entry:#x} is not valid; {REPAIR}")));
        }
        if entry & COPIED == 0 {
            is_shared = true;
            if refcount(table).await? < 2 {
                return Ok(Err(format!("its L1 entry {entry:#x} lacks a flag; {REPAIR}")));
            }
        }
    }
    Ok(Ok(is_shared))
}

/// The numbers in a table.
pub(super) fn numbers(table: &[u8]) -> impl Iterator<Item = u64> {
    table.as_chunks().0.iter().map(|bytes| u64::from_be_bytes(*bytes))
}
