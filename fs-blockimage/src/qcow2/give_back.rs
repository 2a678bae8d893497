//! Gives space that nobody uses back to the host.

use std::{io, ops::Range, sync::PoisonError};

use super::{commit, metadata::Metadata, refcounts};

/// What the host has blocks of: less cannot be given back.
const BLOCK: u64 = 4096;

impl Metadata {
    /// Notes the clusters that are free by a block of refcounts, the `of`-th one, and were not by `old`.
    pub(super) fn note_freed(&self, of: u64, old: &[u8], new: &[u8]) {
        let changed = commit::difference(old, new);
        let order = self.refcount_order();
        let first = of << (self.cluster().ilog2() + 3 - order);
        for nth in refcounts::freed(old, new, changed, order) {
            self.note_free_cluster((first + nth as u64) * self.cluster());
        }
    }

    /// Notes where data was that may be freed before the file knows that it was not free.
    pub(super) fn note_unused(&self, offset: u64, len: u64) {
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        unused.push(offset..offset + len);
    }

    /// Notes what of that is free.
    pub(super) async fn note_unused_as_free(&self) -> io::Result<()> {
        let all = std::mem::take(&mut *self.unused.lock().unwrap_or_else(PoisonError::into_inner));
        let (order, bits) = (self.refcount_order(), self.cluster().ilog2());
        let block_bits = bits + 3 - order;
        let layout = self.layout();
        let mut last = (u64::MAX, Vec::new());
        for at in all.into_iter().flat_map(|range| range.step_by(1 << bits)) {
            let index = at >> bits;
            if last.0 != index >> block_bits {
                let Some(block) = layout.refblock(index >> block_bits) else { continue };
                last = (index >> block_bits, self.view(block, 1 << bits).await?);
            }
            if refcounts::nth(&last.1, (index & ((1 << block_bits) - 1)) as usize, order) == 0 {
                self.note_free_cluster(at);
            }
        }
        Ok(())
    }

    /// Notes the clusters that imago writes as tables.
    pub(super) fn note_made(&self, offset: u64, len: u64) {
        for at in (offset..offset + len).step_by(self.cluster() as usize) {
            let is_whole = at.is_multiple_of(self.cluster()) && len >= self.cluster();
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            if is_whole && !self.is_owned(at) && made.insert(at) {
                // It is free again when what it was for has failed.
                self.note_unused(at, self.cluster());
            }
        }
    }

    /// Whether a cluster became a table since the image was opened.
    pub(super) fn is_made(&self, at: u64) -> bool {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).contains(&at)
    }

    fn note_free_cluster(&self, at: u64) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).remove(&at);
        self.known().remove(at);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        match free.last_mut() {
            Some(last) if last.end == at => last.end += self.cluster(),
            _ => free.push(at..at + self.cluster()),
        }
    }

    /// Gives back what was noted. The file refers to none of it, and nothing was allocated since.
    ///
    /// # Errors
    /// What the host said. It keeps the space where it has no holes.
    pub(super) async fn give_back(&self) -> io::Result<()> {
        let free = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            *free = merged(std::mem::take(&mut *free));
            free.clone()
        };
        for range in &free {
            if range.end - range.start >= BLOCK {
                self.file().give_back(range.start, range.end - range.start).await?;
            }
        }
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }
}

/// The same ranges in order, none of which touches another.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(merged(vec![4..6, 0..2, 2..3, 5..9, 11..12, 0..1]), [0..3, 4..9, 11..12]);
    }
}
