//! What the content of an image may be, by what was done to it and acknowledged.

use std::{fmt::Write as _, ops::Range};

use crate::{
    recorder::{GuestOp, Span},
    remains::SECTOR,
};

/// What was done to an image, and its content before that.
pub(crate) struct Model<'a> {
    pub(crate) initial: &'a [u8],
    pub(crate) ops: &'a [Span<GuestOp>],
}

/// Where the bytes of a range may come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    Initial,
    Op(usize, &'a Span<GuestOp>),
}

impl Model<'_> {
    /// Looks for what `found`, the content after a cut at that time, may not be.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn check(&self, cut: u64, found: &[u8]) -> Result<(), String> {
        let flushed = self.flushed(cut);
        self.check_len(cut, flushed, found.len())?;
        for range in self.ranges(cut, found.len()) {
            let sources = self.sources(cut, flushed, &range);
            if sources.iter().any(|source| self.is_from(source, &range, found)) {
                continue;
            }
            for sector in sectors(range) {
                if !sources.iter().any(|source| self.is_from(source, &sector, found)) {
                    return Err(self.explain(cut, flushed, &sector, &sources, found));
                }
            }
        }
        Ok(())
    }

    /// What ended before this time is durable at the cut.
    fn flushed(&self, cut: u64) -> u64 {
        let flushes = self.ops.iter().filter(|op| op.op == GuestOp::Flush && op.is_done(cut));
        flushes.map(|op| op.start).max().unwrap_or(0)
    }

    fn check_len(&self, cut: u64, flushed: u64, found: usize) -> Result<(), String> {
        let (mut least, mut most) = (self.initial.len(), self.initial.len());
        for op in self.ops.iter().filter(|op| op.start < cut) {
            let GuestOp::Grow(len) = op.op else { continue };
            let len = usize::try_from(len).unwrap();
            most = most.max(len);
            if op.is_done(flushed) {
                least = least.max(len);
            }
        }
        if (least..=most).contains(&found) {
            return Ok(());
        }
        Err(format!("it has {found} bytes and should have {least} to {most}"))
    }

    /// The content, cut where an operation begins or ends.
    fn ranges(&self, cut: u64, len: usize) -> impl Iterator<Item = Range<usize>> {
        let mut ends = vec![0, self.initial.len().min(len), len];
        for op in self.ops.iter().filter(|op| op.start < cut) {
            let range = op.op.range();
            ends.extend([range.start.min(len), range.end.min(len)]);
        }
        ends.sort_unstable();
        ends.dedup();
        (1..ends.len()).map(move |index| ends[index - 1]..ends[index])
    }

    /// What may be found in a range, every one of which covers all of it.
    fn sources(&self, cut: u64, flushed: u64, range: &Range<usize>) -> Vec<Source<'_>> {
        let covers = |op: &Span<GuestOp>| {
            let of = op.op.range();
            op.start < cut && of.start <= range.start && range.end <= of.end
        };
        let covering: Vec<_> = self.ops.iter().enumerate().filter(|(_, op)| covers(op)).collect();
        // What was over when this began is not to be found any more.
        let last = covering.iter().filter(|(_, op)| op.is_done(flushed)).map(|(_, op)| op.start);
        let last = last.max();
        let mut sources: Vec<_> = covering
            .into_iter()
            .filter(|(_, op)| !last.is_some_and(|last| op.is_over(last)))
            .map(|(index, op)| Source::Op(index, op))
            .collect();
        if last.is_none() {
            sources.push(Source::Initial);
        }
        sources
    }

    fn is_from(&self, source: &Source<'_>, range: &Range<usize>, found: &[u8]) -> bool {
        let found = &found[range.clone()];
        match source {
            Source::Initial => match self.initial.get(range.clone()) {
                Some(initial) => found == initial,
                None => is_zero(found),
            },
            Source::Op(_, op) => op.op.makes(range, found),
        }
    }

    fn explain(
        &self,
        cut: u64,
        flushed: u64,
        range: &Range<usize>,
        sources: &[Source<'_>],
        found: &[u8],
    ) -> String {
        let mut text = format!(
            "cut at {cut}, last flush began at {flushed}: {range:?} may be of {:?}, and is ",
            sources.iter().map(name).collect::<Vec<_>>(),
        );
        let content = &found[range.clone()];
        let origin = self.ops.iter().position(|op| {
            let of = op.op.range();
            of.start <= range.start && range.end <= of.end && op.op.makes(range, content)
        });
        let of_initial = self.is_from(&Source::Initial, range, found);
        let _ = match origin {
            Some(index) => write!(text, "of {}", name(&Source::Op(index, &self.ops[index]))),
            None if of_initial => write!(text, "as in the beginning"),
            None if is_zero(content) => write!(text, "zero"),
            None => write!(text, "{:02x?}..", &content[..content.len().min(8)]),
        };
        text
    }
}

impl GuestOp {
    /// What it changes.
    fn range(&self) -> Range<usize> {
        let (offset, len) = match self {
            Self::Write { offset, data } => (*offset, data.len() as u64),
            Self::Zero { offset, len } => (*offset, *len),
            Self::Grow(_) | Self::Flush => (0, 0),
        };
        usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap()
    }

    /// Whether the content of a range that it covers can be of it.
    fn makes(&self, range: &Range<usize>, content: &[u8]) -> bool {
        match self {
            Self::Write { offset, data } => {
                let start = range.start - usize::try_from(*offset).unwrap();
                data[start..start + range.len()] == *content
            }
            Self::Zero { .. } => is_zero(content),
            Self::Grow(_) | Self::Flush => false,
        }
    }
}

fn name(source: &Source<'_>) -> String {
    match source {
        Source::Initial => "the beginning".into(),
        Source::Op(index, op) => {
            let what = if matches!(op.op, GuestOp::Zero { .. }) { "zeroing" } else { "write" };
            let end = op.end.map(|end| (end.at, end.succeeded));
            format!("{what} {index} of {:?} ({} to {end:?})", op.op.range(), op.start)
        }
    }
}

fn sectors(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let (first, last) = (range.start / SECTOR, range.end.div_ceil(SECTOR));
    (first..last).map(move |sector| {
        (sector * SECTOR).max(range.start)..((sector + 1) * SECTOR).min(range.end)
    })
}

fn is_zero(bytes: &[u8]) -> bool {
    const ZEROES: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROES.len()).all(|chunk| *chunk == ZEROES[..chunk.len()])
}
