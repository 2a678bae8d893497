//! Which cluster of an image holds what.

use std::{collections::HashMap, ops::Range};

use super::header::Table;

/// An entry of the refcount table without what is reserved.
const REFBLOCK: u64 = !0x1ff;
/// An entry of the L1 table, or of an L2 table, without flags.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The flag of an entry for what belongs to nobody else.
pub(super) const COPIED: u64 = 1 << 63;
/// The flag of an L2 entry for compressed data.
pub(super) const COMPRESSED: u64 = 1 << 62;

/// What is where, of the metadata that is written in an order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) reftable: Table,
    pub(super) l1: Table,
    /// Where they are, and which of them each is.
    pub(super) refblocks: HashMap<u64, u64>,
    in_order: Vec<u64>,
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
            at if self.refblocks.contains_key(&at) => Kind::Refblock,
            at if self.l1.contains(at) => Kind::L1,
            _ => Kind::L2,
        }
    }

    /// Where the block of refcounts with this index is.
    pub(super) fn refblock(&self, index: u64) -> Option<u64> {
        self.in_order.get(usize::try_from(index).ok()?).copied().filter(|&at| at != 0)
    }

    /// The layout with these tables; `entries` is the content of the refcount table.
    pub(super) fn new(reftable: Table, l1: Table, entries: &[u8]) -> Self {
        let in_order: Vec<_> = numbers(entries).map(|entry| entry & REFBLOCK).collect();
        let all = in_order.iter().copied().zip(0..);
        let refblocks = all.filter(|&(at, _)| at != 0).collect();
        Self { reftable, l1, refblocks, in_order }
    }
}

/// The numbers in a table.
pub(super) fn numbers(table: &[u8]) -> impl Iterator<Item = u64> {
    table.as_chunks().0.iter().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The number with this index.
pub(super) fn number(table: &[u8], index: usize) -> Option<u64> {
    table.as_chunks().0.get(index).map(|bytes| u64::from_be_bytes(*bytes))
}

/// Where the data is that an L2 entry for compressed data refers to; it may end before.
pub(super) fn compressed(entry: u64, cluster_bits: u32) -> Range<u64> {
    const SECTOR: u64 = 512;
    let bits = 70 - cluster_bits;
    let descriptor = entry & !(COMPRESSED | COPIED);
    let start = descriptor & ((1 << bits) - 1) & ((1 << 56) - 1);
    start..(start & !(SECTOR - 1)) + ((descriptor >> bits) + 1) * SECTOR
}
