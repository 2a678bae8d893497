//! Which clusters are metadata, so that nothing else is taken for it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, PoisonError},
};

use super::{
    header::{Header, Table, Unusable},
    layout::{self, COMPRESSED, COPIED, OFFSET, numbers},
};

/// The way out of an image whose tables are wrong.
pub(super) const REPAIR: &str = "repair it with `qemu-img check -r all`";

/// What belongs to metadata in an image that is to be changed.
#[derive(Debug)]
pub(super) struct Ownership {
    /// Clusters of metadata, with the least refcount that each must have.
    pub(super) clusters: BTreeMap<u64, u64>,
    /// L2 tables that nobody has looked at yet.
    tables: Mutex<HashSet<u64>>,
    /// Which blocks of refcounts there are.
    refblocks: Vec<bool>,
    refblock_bits: u32,
    cluster_bits: u32,
}

impl Ownership {
    /// From the content of the two tables, in a file of `len` bytes.
    pub(super) fn new(
        header: &Header,
        reftable: &[u8],
        l1: &[u8],
        len: u64,
    ) -> Result<Self, Unusable> {
        let mut new = Self {
            clusters: BTreeMap::from([(0, 1)]),
            tables: Mutex::default(),
            refblocks: numbers(reftable).map(|entry| entry != 0).collect(),
            refblock_bits: header.refblock_bits(),
            cluster_bits: header.cluster_bits,
        };
        if reftable.is_empty() {
            return Err(format!("its refcount table is empty; {REPAIR}"));
        }
        new.own_table("refcount table", header.reftable, len)?;
        new.own_table("L1 table", header.l1, len)?;
        for entry in numbers(reftable).filter(|&entry| entry != 0) {
            new.own(entry, 1, len).map_err(|why| {
                format!("the entry {entry:#x} of its refcount table {why}; {REPAIR}")
            })?;
        }
        let mut tables = HashSet::new();
        for entry in numbers(l1).filter(|&entry| entry & OFFSET != 0) {
            // Without the flag a snapshot has it too.
            let least = if entry & COPIED == 0 { 2 } else { 1 };
            new.own(entry & OFFSET, least, len)
                .map_err(|why| format!("its L1 entry {entry:#x} {why}; {REPAIR}"))?;
            tables.insert(entry & OFFSET);
        }
        new.tables = tables.into();
        Ok(new)
    }

    /// Whether snapshots have some of the L2 tables.
    pub(super) fn is_shared(&self) -> bool {
        self.clusters.values().any(|&least| least > 1)
    }

    fn own_table(&mut self, what: &str, table: Table, len: u64) -> Result<(), Unusable> {
        let end = table.offset + table.entries * 8;
        if end > len {
            return Err(format!("its {what} is behind its end; {REPAIR}"));
        }
        for cluster in (table.offset..end).step_by(1 << self.cluster_bits) {
            self.insert(cluster, 1).map_err(|why| format!("its {what} {why}; {REPAIR}"))?;
        }
        Ok(())
    }

    fn own(&mut self, cluster: u64, least: u64, len: u64) -> Result<(), &'static str> {
        if !cluster.is_multiple_of(1 << self.cluster_bits) {
            return Err("is not valid");
        }
        if cluster.checked_add(1 << self.cluster_bits).is_none_or(|end| end > len) {
            return Err("is behind its end");
        }
        self.insert(cluster, least)
    }

    fn insert(&mut self, cluster: u64, least: u64) -> Result<(), &'static str> {
        match self.clusters.insert(cluster, least) {
            None => Ok(()),
            Some(_) => Err("is where something else is"),
        }
    }

    /// Checks an L2 table when it is loaded first, before it has entries that are not from the file: data is not where
    /// metadata is, and refcounts exist.
    pub(super) fn check_l2(&self, at: u64, table: &[u8]) -> Result<(), String> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if !tables.contains(&at) {
            return Ok(());
        }
        if let Some(entry) = numbers(table).find(|&entry| !self.is_valid(entry)) {
            return Err(format!("its L2 entry {entry:#x} is not valid; {REPAIR}"));
        }
        tables.remove(&at);
        Ok(())
    }

    fn is_valid(&self, entry: u64) -> bool {
        let range = match entry & COMPRESSED {
            0 if entry & OFFSET == 0 => return true,
            0 => entry & OFFSET..(entry & OFFSET) + 1,
            _ => layout::compressed(entry, self.cluster_bits),
        };
        let (first, last) = (range.start, range.end - 1);
        (first >> self.cluster_bits..=last >> self.cluster_bits).all(|cluster| {
            !self.clusters.contains_key(&(cluster << self.cluster_bits))
                && self.refblocks.get((cluster >> self.refblock_bits) as usize) == Some(&true)
        })
    }
}
