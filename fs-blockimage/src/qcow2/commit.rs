//! Brings metadata to the file.
//!
//! Between two syncs a power cut may leave any part of what was written, so what refers to something comes after what
//! it refers to. With M as it was at the last commit:
//!
//! 1. Data is written already. Refcounts are written where they rise; a sync. M does not refer to the new clusters,
//!    and what M refers to keeps its count.
//! 2. The refcount table, and where it is; a sync. It refers to blocks of step 1.
//! 3. L2 tables; a sync. They refer to data and have refcounts.
//! 4. The L1 table; a sync. It refers to L2 tables of step 3.
//! 5. The header; a sync.
//! 6. Refcounts where they fall: nothing refers to these clusters any more. Their space is given back to the host.
//!
//! A cut leaves clusters that nobody uses at worst. Steps without anything to write cost nothing; usually there are
//! two syncs.

use std::{io, ops::Range, sync::Arc};

use super::{
    header::{self, Table},
    layout::{Kind, Layout},
    metadata::{Blocks, Metadata},
    refcounts,
};
use crate::storage::HostFile;

/// What storage writes as a whole, or not at all.
const SECTOR: usize = 512;

impl Metadata {
    /// Makes everything durable that imago has written, and all data. `data` is the file of the data where that is
    /// another.
    ///
    /// Nobody changes metadata meanwhile.
    ///
    /// # Errors
    /// What the host said: the next commit tries again what the file does not have. It fails where a sync has failed.
    pub(super) async fn commit(&self, data: Option<&HostFile>) -> io::Result<()> {
        let committed = self.commit_and_free(data).await;
        if committed.is_err() {
            // Some of it may be in the file.
            self.known().clear();
        }
        committed
    }

    async fn commit_and_free(&self, data: Option<&HostFile>) -> io::Result<()> {
        self.commit_all(data).await?;
        if self.free_abandoned().await? {
            self.commit_all(data).await?;
        }
        self.is_settled();
        Ok(())
    }

    async fn commit_all(&self, data: Option<&HostFile>) -> io::Result<()> {
        let blocks = self.pending().clone();
        let old = self.layout();
        let new = self.next_layout(&old, &blocks).await?;
        self.extend().await?;
        let mut lowered = Vec::new();
        for (at, block) in of(&blocks, &new, Kind::Refblock) {
            let now = self.in_file(at).await?;
            let raised = self.raised(&old, at, &now, block);
            self.bring(at, &now, &raised).await?;
            if !Arc::ptr_eq(&raised, block) {
                lowered.push((at, raised, block));
            }
        }
        if let Some(data) = data {
            data.sync().await?;
        }
        self.file().sync().await?;
        self.commit_reftable(&blocks, &old, &new).await?;
        self.set_layout(new.clone());
        for kind in [Kind::L2, Kind::L1, Kind::Header] {
            self.commit_kind(&blocks, &new, kind).await?;
        }
        for (at, raised, block) in &lowered {
            self.bring(*at, raised, block).await?;
            if let Some(&of) = new.refblocks.get(at) {
                self.note_freed(of, raised, block);
            }
        }
        self.note_unused_as_free().await?;
        self.give_back().await?;
        self.pending()
            .retain(|at, now| !blocks.get(at).is_some_and(|written| Arc::ptr_eq(written, now)));
        Ok(())
    }

    async fn commit_kind(&self, blocks: &Blocks, layout: &Layout, kind: Kind) -> io::Result<()> {
        let mut is_any = false;
        for (at, block) in of(blocks, layout, kind) {
            let now = self.in_file(at).await?;
            self.bring(at, &now, block).await?;
            is_any = true;
        }
        if is_any { self.file().sync().await } else { Ok(()) }
    }

    /// The refcount table comes before what its refcounts are for; in the header, only where it is.
    async fn commit_reftable(&self, blocks: &Blocks, old: &Layout, new: &Layout) -> io::Result<()> {
        self.commit_kind(blocks, new, Kind::Reftable).await?;
        let Some(header) = blocks.get(&0).filter(|_| new.reftable != old.reftable) else {
            return Ok(());
        };
        let mut first = self.file().read_padded(0, SECTOR).await?;
        first[header::REFTABLE].copy_from_slice(&header[header::REFTABLE]);
        self.known().remove(0);
        self.file().write_bytes(0, &first).await?;
        self.file().sync().await
    }

    /// Where things are when `blocks` are written.
    async fn next_layout(&self, old: &Arc<Layout>, blocks: &Blocks) -> io::Result<Arc<Layout>> {
        let is_moved = |at: &u64| matches!(old.kind(*at), Kind::Header | Kind::Reftable);
        if !blocks.keys().any(is_moved) {
            return Ok(old.clone());
        }
        let header = self.view(0, SECTOR).await?;
        let (l1, reftable) = header::tables(&header, self.cluster().ilog2());
        let entries = reftable.entries.min(header::ENTRIES_MAX);
        let reftable = Table { entries, ..reftable };
        let content = self.view_table(reftable).await?;
        Ok(Layout::new(reftable, l1, &content).into())
    }

    /// A block of refcounts in which none is lower than the file has it `now`: the same one where none has fallen.
    fn raised(&self, old: &Layout, at: u64, now: &[u8], block: &Arc<Vec<u8>>) -> Arc<Vec<u8>> {
        if !old.refblocks.contains_key(&at) {
            // What is there is no block of refcounts.
            return block.clone();
        }
        let changed = difference(now, block);
        let higher = refcounts::higher(
            &now[changed.clone()],
            &block[changed.clone()],
            self.refcount_order(),
        );
        if higher == block[changed.clone()] {
            return block.clone();
        }
        let mut raised = Vec::clone(block);
        raised[changed].copy_from_slice(&higher);
        Arc::new(raised)
    }

    /// Writes what the file, which has `old`, does not have of `block`.
    async fn bring(&self, at: u64, old: &[u8], block: &Arc<Vec<u8>>) -> io::Result<()> {
        let changed = difference(old, block);
        self.file().write_bytes(at + changed.start as u64, &block[changed]).await?;
        self.known().insert(at, block.clone());
        Ok(())
    }

    /// Makes the file as long as what is in it.
    async fn extend(&self) -> io::Result<()> {
        let (file, reached) = (self.file(), self.reached());
        if !file.is_block_device() && file.len()? < reached {
            file.set_len(reached).await?;
        }
        Ok(())
    }
}

/// Those of a kind.
fn of<'a>(
    blocks: &'a Blocks,
    layout: &'a Layout,
    kind: Kind,
) -> impl Iterator<Item = (u64, &'a Arc<Vec<u8>>)> {
    blocks.iter().map(|(&at, block)| (at, block)).filter(move |&(at, _)| layout.kind(at) == kind)
}

/// The sectors from the first that differs to the last.
pub(super) fn difference(old: &[u8], new: &[u8]) -> Range<usize> {
    let differs = |pair: &(&[u8], &[u8])| pair.0 != pair.1;
    let sectors = || old.chunks(SECTOR).zip(new.chunks(SECTOR));
    let Some(first) = sectors().position(|pair| differs(&pair)) else { return 0..0 };
    let last = sectors().rposition(|pair| differs(&pair)).unwrap_or(first);
    first * SECTOR..((last + 1) * SECTOR).min(new.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_sectors_are_written_from_the_first_difference_to_the_last() {
        let old = vec![0; 4 * SECTOR];
        assert_eq!(difference(&old, &old), 0..0);
        let mut new = old.clone();
        new[SECTOR + 7] = 1;
        assert_eq!(difference(&old, &new), SECTOR..2 * SECTOR);
        new[4 * SECTOR - 1] = 1;
        assert_eq!(difference(&old, &new), SECTOR..4 * SECTOR);
    }
}
