//! What a power cut leaves of a file of the host.
//!
//! The file is on a filesystem with a journal, behind a page cache: what ended before a sync began is there when that
//! sync has ended. Of all other operations each sector is there or not, a change of length is there or not, and a
//! sector has never an older content than one that it had before. The pages that a failed sync was to write are clean
//! after it, and may be lost whatever later syncs say.

use std::ops::Range;

use fsrv_blockimage::HostOp;

use crate::{
    recorder::{End, Span},
    seed::Seed,
};

pub(crate) const SECTOR: usize = 512;

/// The file as a cut at that time may leave it, by the choices of `seed`.
pub(crate) fn remains(initial: &[u8], ops: &[Span<HostOp>], cut: u64, seed: &mut Seed) -> Vec<u8> {
    let syncs = Syncs::before(cut, ops);
    let mut order: Vec<_> = ops
        .iter()
        .filter(|op| op.start < cut && op.op != HostOp::Sync && !op.has_failed())
        .map(|op| {
            // Some time while it ran: what ran at once has any order.
            let end = op.end.map_or(cut, |end| end.at.min(cut));
            (op.start + seed.below(end - op.start + 1), op)
        })
        .collect();
    order.sort_by_key(|&(at, _)| at);
    let mut medium =
        Medium { cache: initial.to_vec(), disk: initial.to_vec(), least: initial.len() };
    for (_, op) in order {
        let fate = if syncs.cover(op) {
            Fate::Kept
        } else {
            match seed.below(3) {
                0 => Fate::Lost,
                1 => Fate::Kept,
                _ => Fate::Torn,
            }
        };
        medium.apply(&op.op, fate, seed);
    }
    medium.disk
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    Torn,
}

/// The syncs before a cut: when each began and ended.
struct Syncs {
    good: Vec<(u64, u64)>,
    failed: Vec<(u64, u64)>,
}

impl Syncs {
    fn before(cut: u64, ops: &[Span<HostOp>]) -> Self {
        let mut syncs = Self { good: Vec::new(), failed: Vec::new() };
        for sync in ops.iter().filter(|op| op.op == HostOp::Sync) {
            match sync.end {
                Some(End { at, succeeded: true }) if at < cut => syncs.good.push((sync.start, at)),
                Some(End { at, succeeded: false }) => syncs.failed.push((sync.start, at)),
                _ => {}
            }
        }
        syncs
    }

    /// Whether the operation is durable.
    fn cover(&self, op: &Span<HostOp>) -> bool {
        let Some(end) = op.end else { return false };
        // They are in the order in which they began.
        let first = self.good.partition_point(|&(start, _)| start <= end.at);
        let Some(&(_, sync)) = self.good.get(first) else { return false };
        // Of two that run at once only one is told of an error.
        !self.failed.iter().any(|&(start, end)| op.start < end && start < sync)
    }
}

struct Medium {
    /// What a reader sees.
    cache: Vec<u8>,
    /// What is left after a cut.
    disk: Vec<u8>,
    /// The least length of the cache since its length was last written.
    least: usize,
}

impl Medium {
    fn apply(&mut self, op: &HostOp, fate: Fate, seed: &mut Seed) {
        let old_len = self.cache.len();
        let changed = self.change_cache(op);
        let keeps_len = match fate {
            Fate::Kept => true,
            Fate::Lost | Fate::Torn => self.cache.len() != old_len && seed.in_percent(50),
        };
        if keeps_len {
            self.disk.truncate(self.least);
            self.disk.resize(self.cache.len(), 0);
            self.least = self.cache.len();
        }
        if fate == Fate::Lost {
            return;
        }
        for sector in changed.start / SECTOR..changed.end.div_ceil(SECTOR) {
            if fate == Fate::Kept || seed.in_percent(50) {
                self.write_back(sector);
            }
        }
    }

    /// Returns what has another content now.
    fn change_cache(&mut self, op: &HostOp) -> Range<usize> {
        match op {
            HostOp::Write { offset, data } => {
                let range = range(*offset, data.len() as u64);
                if self.cache.len() < range.end {
                    self.cache.resize(range.end, 0);
                }
                self.cache[range.clone()].copy_from_slice(data);
                range
            }
            HostOp::Zero { offset, len } => {
                let range = range(*offset, *len);
                let range = range.start.min(self.cache.len())..range.end.min(self.cache.len());
                self.cache[range.clone()].fill(0);
                range
            }
            HostOp::SetLen(len) => {
                let len = usize::try_from(*len).unwrap();
                self.least = self.least.min(len);
                self.cache.resize(len, 0);
                0..0
            }
            HostOp::Allocate { offset, len } => {
                let end = range(*offset, *len).end;
                if self.cache.len() < end {
                    self.cache.resize(end, 0);
                }
                0..0
            }
            HostOp::Sync => 0..0,
        }
    }

    fn write_back(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.cache.len()).min(self.disk.len());
        if start < end {
            self.disk[start..end].copy_from_slice(&self.cache[start..end]);
        }
    }
}

fn range(offset: u64, len: u64) -> Range<usize> {
    let start = usize::try_from(offset).unwrap();
    start..start + usize::try_from(len).unwrap()
}
