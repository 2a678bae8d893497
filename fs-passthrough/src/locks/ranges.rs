//! The byte ranges of one owner: sorted, disjoint, and neighbours of one mode are one range.

use fsrv::types::LockKind;

/// How a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

impl Mode {
    /// `None` for an unlock.
    pub(super) fn of(kind: LockKind) -> Option<Self> {
        match kind {
            LockKind::Read => Some(Self::Shared),
            LockKind::Write => Some(Self::Exclusive),
            LockKind::Unlock => None,
        }
    }

    pub(super) fn kind(self) -> LockKind {
        match self {
            Self::Shared => LockKind::Read,
            Self::Exclusive => LockKind::Write,
        }
    }

    pub(super) fn excludes(self, other: Self) -> bool {
        self == Self::Exclusive || other == Self::Exclusive
    }
}

/// From the first byte to the last, both included. The last is at most `i64::MAX`, "the end of the
/// file", so that one more never overflows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Span {
    pub(super) const ALL: Self = Self { start: 0, end: i64::MAX.cast_unsigned() };

    pub(super) fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// A range that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) span: Span,
    pub(super) mode: Mode,
}

/// See the module.
#[derive(Default, Debug)]
pub(super) struct Ranges(Vec<Range>);

/// A change that was worked out and not made yet: whether it may be made depends on others.
pub(super) struct Edit {
    /// Which ranges it replaces.
    first: usize,
    last: usize,
    /// By what: a rest before, the new range, a rest behind.
    pieces: [Option<Range>; 3],
}

impl Edit {
    /// How many ranges come, and how many go.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.pieces.iter().flatten().count(), self.last - self.first)
    }
}

impl Ranges {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first range that overlaps `span` and, for a `mode`, excludes it.
    pub(super) fn find(&self, span: Span, mode: Option<Mode>) -> Option<Range> {
        let first = self.0.partition_point(|range| range.span.end < span.start);
        self.0[first..]
            .iter()
            .take_while(|range| range.span.start <= span.end)
            .find(|range| mode.is_none_or(|mode| range.mode.excludes(mode)))
            .copied()
    }

    /// What it takes to hold `span` in `mode`, or not at all.
    pub(super) fn edit(&self, span: Span, mode: Option<Mode>) -> Edit {
        // Neighbours that only touch belong to the window: they may become one with the new range.
        let first = self.0.partition_point(|range| range.span.end + 1 < span.start);
        let last = self.0.partition_point(|range| range.span.start <= span.end + 1);
        let window = self.0.get(first..last).unwrap_or_default();
        let mut before =
            window.first().filter(|range| range.span.start < span.start).map(|range| {
                let end = range.span.end.min(span.start - 1);
                Range { span: Span { start: range.span.start, end }, ..*range }
            });
        let mut behind = window.last().filter(|range| range.span.end > span.end).map(|range| {
            let start = range.span.start.max(span.end + 1);
            Range { span: Span { start, end: range.span.end }, ..*range }
        });
        let middle = mode.map(|mode| {
            let before = before.take_if(|range| range.mode == mode);
            let behind = behind.take_if(|range| range.mode == mode);
            let start = before.map_or(span.start, |range| range.span.start);
            let end = behind.map_or(span.end, |range| range.span.end);
            Range { span: Span { start, end }, mode }
        });
        Edit { first, last: last.max(first), pieces: [before, middle, behind] }
    }

    /// Makes a change that was worked out on these ranges.
    pub(super) fn apply(&mut self, edit: Edit) {
        self.0.splice(edit.first..edit.last, edit.pieces.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few enough bytes that ranges meet all the time.
    const BYTES: u64 = 12;

    fn set(ranges: &mut Ranges, start: u64, end: u64, mode: Option<Mode>) {
        let edit = ranges.edit(Span { start, end }, mode);
        let (come, go) = edit.counts();
        let expected = ranges.len() + come - go;
        ranges.apply(edit);
        assert_eq!(ranges.len(), expected);
    }

    fn listed(ranges: &Ranges) -> Vec<(u64, u64, Mode)> {
        ranges.0.iter().map(|range| (range.span.start, range.span.end, range.mode)).collect()
    }

    #[test]
    fn an_unlock_in_the_middle_leaves_both_ends() {
        let mut ranges = Ranges::default();
        set(&mut ranges, 0, 9, Some(Mode::Exclusive));
        set(&mut ranges, 3, 5, None);
        assert_eq!(listed(&ranges), [(0, 2, Mode::Exclusive), (6, 9, Mode::Exclusive)]);
    }

    #[test]
    fn neighbours_of_one_mode_become_one() {
        let mut ranges = Ranges::default();
        set(&mut ranges, 0, 2, Some(Mode::Shared));
        set(&mut ranges, 6, 9, Some(Mode::Shared));
        set(&mut ranges, 3, 5, Some(Mode::Shared));
        assert_eq!(listed(&ranges), [(0, 9, Mode::Shared)]);
    }

    #[test]
    fn a_downgrade_in_the_middle_splits_in_three() {
        let mut ranges = Ranges::default();
        set(&mut ranges, 0, 9, Some(Mode::Exclusive));
        set(&mut ranges, 3, 5, Some(Mode::Shared));
        let expected = [(0, 2, Mode::Exclusive), (3, 5, Mode::Shared), (6, 9, Mode::Exclusive)];
        assert_eq!(listed(&ranges), expected);
    }

    #[test]
    fn the_end_of_the_file_is_a_byte_like_any_other() {
        let end = Span::ALL.end;
        let mut ranges = Ranges::default();
        set(&mut ranges, 100, end, Some(Mode::Exclusive));
        set(&mut ranges, end, end, None);
        assert_eq!(listed(&ranges), [(100, end - 1, Mode::Exclusive)]);
        set(&mut ranges, 0, end, None);
        assert!(ranges.is_empty());
    }

    fn mode() -> impl Strategy<Value = Option<Mode>> {
        prop_oneof![Just(None), Just(Some(Mode::Shared)), Just(Some(Mode::Exclusive))]
    }

    fn changes() -> impl Strategy<Value = Vec<(u64, u64, Option<Mode>)>> {
        prop::collection::vec((0..BYTES, 0..BYTES, mode()), 0..40)
    }

    proptest! {
        #[test]
        fn ranges_are_as_a_list_of_bytes_has_them(changes in changes()) {
            let mut ranges = Ranges::default();
            let mut bytes = [None; BYTES as usize];
            for (a, b, mode) in changes {
                let (start, end) = (a.min(b), a.max(b));
                set(&mut ranges, start, end, mode);
                bytes[start as usize..=end as usize].fill(mode);

                for (at, held) in (0..).zip(&bytes) {
                    let found = ranges.find(Span { start: at, end: at }, None);
                    prop_assert_eq!(found.map(|range| range.mode), *held);
                }
                let exclusive = bytes[start as usize..=end as usize]
                    .contains(&Some(Mode::Exclusive));
                let found = ranges.find(Span { start, end }, Some(Mode::Shared));
                prop_assert_eq!(found.is_some(), exclusive);
                for pair in ranges.0.windows(2) {
                    prop_assert!(pair[0].span.end < pair[1].span.start);
                    let touch = pair[0].span.end + 1 == pair[1].span.start;
                    prop_assert!(!touch || pair[0].mode != pair[1].mode);
                }
            }
        }
    }
}
