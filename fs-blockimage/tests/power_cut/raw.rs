//! Raw images: the file is the content.

use std::fs;

use fsrv_blockimage::{Format, HostOp, Options};

use crate::{
    cuts::{Image, Kind, Plan, Run, cut_power},
    faults::{fail, fill},
    seed::Seed,
    workload::Workload,
};

pub(crate) struct Raw;

impl Kind for Raw {
    fn workload(&self, seed: u64) -> Workload {
        Workload {
            seed,
            tasks: 6,
            ops: 40,
            write_max: 256 << 10,
            len_max: 4 << 20,
            len_step: 1,
            zeroing: 15,
        }
    }

    fn create(&self, seed: u64) -> Image {
        // On a disk, where syncs take time in which others write.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("image");
        let content = Seed::part(seed, u64::MAX).bytes(3 << 20);
        fs::write(&path, &content).unwrap();
        let options = Options {
            path,
            format: Some(Format::Raw),
            writable: true,
            direct: false,
            allow_backing: Vec::new(),
        };
        Image { _dir: dir, options, content }
    }

    fn content(&self, _: &Image, left: Vec<u8>, _: &mut Seed) -> Result<Vec<u8>, String> {
        Ok(left)
    }
}

#[test]
fn what_was_flushed_is_there_after_a_power_cut() {
    cut_power(&Raw, Plan::here());
}

#[test]
fn a_failing_host_is_reported_and_changes_nothing_else() {
    fail(&Raw);
}

#[test]
fn a_full_host_is_reported_and_changes_nothing_else() {
    fill(&Raw);
}

/// What these tests find, when it is there to be found.
mod found {
    use std::ops::Range;

    use super::*;
    use crate::recorder::Span;

    const CUTS: u64 = 100;

    /// How many of `count` cuts in that time show that something is wrong.
    fn in_cuts(run: &Run, time: Range<u64>, count: u64) -> usize {
        let len = time.end - time.start;
        let cuts = (0..count).map(|part| time.start + part * len / count);
        cuts.filter(|&cut| run.cut(&Raw, cut).is_err()).count()
    }

    fn in_changed(change: impl Fn(&mut Vec<Span<HostOp>>)) -> usize {
        let mut run = Run::record(&Raw, 0);
        change(&mut run.log.host);
        in_cuts(&run, 0..run.log.now + 1, CUTS)
    }

    fn is_sync(op: &Span<HostOp>) -> bool {
        op.op == HostOp::Sync
    }

    #[test]
    fn nothing_when_nothing_is_wrong() {
        assert_eq!(in_changed(|_| {}), 0);
    }

    #[test]
    fn that_no_sync_reaches_the_disk() {
        assert!(in_changed(|host| host.retain(|op| !is_sync(op))) > 50);
    }

    #[test]
    fn that_one_sync_does_not_reach_the_disk() {
        let mut run = Run::record(&Raw, 0);
        let host = run.log.host.clone();
        let mut ends: Vec<_> = host.iter().filter(|op| is_sync(op)).map(at_end).collect();
        ends.sort_unstable();
        // Those after which most happens before another one.
        let mut pairs: Vec<_> = ends.array_windows().collect();
        pairs.sort_by_key(|[lost, next]| lost.abs_diff(*next));
        let found = pairs.iter().rev().take(20).map(|[lost, next]| {
            run.log.host = host.clone();
            run.log.host.retain(|op| !is_sync(op) || at_end(op) != *lost);
            in_cuts(&run, lost + 2..*next, CUTS)
        });
        assert!(found.sum::<usize>() > 0);
    }

    fn at_end(op: &Span<HostOp>) -> u64 {
        op.end.unwrap().at
    }

    #[test]
    fn that_syncs_leave_out_what_ended_just_before() {
        let early = |host: &mut Vec<Span<HostOp>>| {
            for sync in host.iter_mut().filter(|op| is_sync(op)) {
                sync.start = sync.start.saturating_sub(20);
            }
            host.sort_by_key(|op| op.start);
        };
        assert!(in_changed(early) > 0);
    }

    #[test]
    fn that_a_write_goes_to_the_wrong_place() {
        let found = in_changed(|host| {
            let offsets = host.iter_mut().filter_map(|op| match &mut op.op {
                HostOp::Write { offset, .. } => Some(offset),
                _ => None,
            });
            for offset in offsets.step_by(10) {
                *offset = offset.checked_sub(512).unwrap_or(512);
            }
        });
        assert!(found > 0);
    }
}
