//! Clusters that imago may not free when it wants to.
//!
//! One of its operations frees the L2 table that it has copied from a snapshot, with it the old refcount table when that was
//! moved just before, and then allocates: it could take a cluster that the file still refers to. It is not let to free
//! anything then, and takes those clusters for used as long as it remembers their refcounts. They are freed here, by the next
//! commit but one, and what imago says of them is corrected.

use std::{
    collections::BTreeMap,
    io,
    sync::{MutexGuard, PoisonError},
};

use super::{
    header::Table,
    layout::{self, OFFSET},
    metadata::Metadata,
    refcounts,
};

#[derive(Default)]
pub(super) struct GivenUp {
    /// Whether what imago does goes on to allocate.
    is_allocating: bool,
    /// What imago does not refer to any more, and has not freed.
    replaced: Vec<u64>,
    /// Of these, what it will not free. The file may refer to it.
    abandoned: Vec<u64>,
    /// By how much imago's refcounts are too high: by block, and which of it.
    excess: BTreeMap<(u64, usize), u64>,
    /// Whether the refcount table was replaced since the last commit.
    has_moved: bool,
}

impl Metadata {
    pub(super) fn is_allocating(&self, is_so: bool) {
        self.given_up().is_allocating = is_so;
    }

    /// Has everything kept that imago wants to free.
    #[cfg(test)]
    pub(super) fn refuses_to_free(&self) {
        self.share_tables();
        let mut given_up = self.given_up();
        (given_up.has_moved, given_up.is_allocating) = (true, true);
    }

    pub(super) fn has_abandoned(&self) -> bool {
        !self.given_up().abandoned.is_empty()
    }

    /// imago is about to free clusters.
    ///
    /// # Errors
    /// When it must not: it takes them for used then.
    pub(super) fn may_free(&self) -> io::Result<()> {
        let mut given_up = self.given_up();
        let replaced = std::mem::take(&mut given_up.replaced);
        if self.has_shared_tables() && given_up.has_moved && given_up.is_allocating {
            given_up.abandoned.extend(replaced);
            return Err(io::Error::other("they are freed by the next commit"));
        }
        self.note_free();
        Ok(())
    }

    /// imago has another refcount table than `old`.
    pub(super) fn replaces_reftable(&self, old: Table) {
        let mut given_up = self.given_up();
        let end = old.offset + old.entries * 8;
        given_up.replaced.extend((old.offset..end).step_by(self.cluster() as usize));
        given_up.has_moved = true;
    }

    /// imago has another entry of the L1 table than `old`.
    pub(super) fn replaces_entry(&self, old: &[u8], new: &[u8]) {
        let table = |entry| layout::number(entry, 0).unwrap_or_default() & OFFSET;
        if table(old) != 0 && table(old) != table(new) {
            self.given_up().replaced.push(table(old));
        }
    }

    /// Corrects the refcounts that imago writes to `offset`.
    pub(super) fn take_given_up(&self, offset: u64, block: &mut [u8]) {
        for (&(_, nth), &by) in self.given_up().excess.range((offset, 0)..=(offset, usize::MAX)) {
            refcounts::lower(block, nth, self.refcount_order(), by);
        }
    }

    /// imago reads what is at `offset`, and knows what there is.
    pub(super) fn is_known(&self, offset: u64) {
        self.given_up().excess.retain(|&(block, _), _| block != offset);
    }

    /// After a commit: nothing refers to what was abandoned. Frees it, and returns whether there was anything: another
    /// commit is to follow.
    ///
    /// # Errors
    /// What the host said.
    pub(super) async fn free_abandoned(&self) -> io::Result<bool> {
        self.given_up().has_moved = false;
        let abandoned = std::mem::take(&mut self.given_up().abandoned);
        let layout = self.layout();
        let bits = self.cluster().ilog2() + 3 - self.refcount_order();
        for &at in &abandoned {
            let index = at / self.cluster();
            let nth = (index & ((1 << bits) - 1)) as usize;
            let Some(block) = layout.refblock(index >> bits) else { continue };
            let mut content = self.view(block, self.cluster() as usize).await?;
            refcounts::lower(&mut content, nth, self.refcount_order(), 1);
            self.put(block, &content).await?;
            *self.given_up().excess.entry((block, nth)).or_default() += 1;
            self.note_free();
        }
        Ok(!abandoned.is_empty())
    }

    fn given_up(&self) -> MutexGuard<'_, GivenUp> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
