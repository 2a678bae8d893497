//! A host that fails, at each operation in turn.

use std::{ffi::CString, fs, path::Path, sync::Arc, thread};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

use crate::{
    cuts::{Image, Kind, is_long},
    model::Model,
    recorder::{Fault, Log, Recorder},
    remains::remains,
    seed::Seed,
    workload::{Outcome, Workload},
};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// Names the place of the fault that is to be repeated.
const NTH: &str = "FSRV_FAULT_NTH";

/// Lets the host fail for images of a kind: at each of its operations, once and from then on.
pub(crate) fn fail<K: Kind>(kind: &K) {
    for errno in [ENOSPC, EIO] {
        for lasts in [false, true] {
            fail_with(kind, errno, lasts);
        }
    }
}

fn fail_with<K: Kind>(kind: &K, errno: i32, lasts: bool) {
    if let Ok(nth) = std::env::var(NTH) {
        fail_at(kind, Fault { nth: nth.parse().unwrap(), errno, lasts });
        return;
    }
    let mut nth = 0;
    while fail_at(kind, Fault { nth, errno, lasts }) {
        // Each of the first, and fewer of those that repeat what they do.
        nth += if is_long() { 1 } else { 1 + nth / 4 };
    }
}

/// Returns whether the workload came to the operation that was to fail.
fn fail_at<K: Kind>(kind: &K, fault: Fault) -> bool {
    let image = kind.create(fault.nth);
    let before = fs::read(&image.options.path).unwrap();
    let workload = Workload { tasks: 3, ops: 8, ..kind.workload(fault.nth) };
    let outcome = workload.run(&image.options, &Arc::new(Recorder::with(fault)));
    let log = &outcome.log;
    let has_failed = log.host.iter().any(|op| op.has_failed());

    let after_cut = || {
        let mut seed = Seed::part(fault.nth, 0);
        let left = remains(&before, &log.host, log.now + 1, &mut seed);
        check(kind, &image, log, left)
    };
    let result = compare(kind, &image, &outcome)
        .and_then(|()| after_cut().map_err(|error| format!("after a power cut: {error}")))
        .and_then(|()| {
            if has_failed && !is_reported(&outcome) {
                Err("nobody was told".into())
            } else {
                Ok(())
            }
        });
    if let Err(error) = result {
        panic!("{fault:?}: {error}\n{NTH}={} repeats this fault", fault.nth);
    }
    has_failed
}

fn is_reported(outcome: &Outcome) -> bool {
    outcome.content.is_none() || outcome.log.guest.iter().any(|op| op.has_failed())
}

/// Compares what the image reads as, and what its file holds, with what was acknowledged.
fn compare<K: Kind>(kind: &K, image: &Image, outcome: &Outcome) -> Result<(), String> {
    let Outcome { log, content } = outcome;
    if let Some(content) = content {
        let model = Model { initial: &image.content, ops: &log.guest };
        let content = content.as_ref().map_err(|error| format!("it cannot be read: {error}"))?;
        model.check(log.now + 1, content).map_err(|error| format!("open: {error}"))?;
    }
    let file = fs::read(&image.options.path).unwrap();
    check(kind, image, log, file).map_err(|error| format!("closed: {error}"))
}

/// Checks what is in the image's file at the end.
fn check<K: Kind>(kind: &K, image: &Image, log: &Log, file: Vec<u8>) -> Result<(), String> {
    let content = kind.content(image, file, &mut Seed::part(log.now, 0))?;
    Model { initial: &image.content, ops: &log.guest }.check(log.now + 1, &content)
}

/// Lets the filesystem run full that an image of a kind is on.
pub(crate) fn fill<K: Kind>(kind: &K) {
    let mut reported = 0;
    for seed in 0..if is_long() { 50 } else { 5 } {
        let mut image = kind.create(seed);
        let small = SmallFilesystem::holding(&image.options.path);
        image.options.path = small.dir.path().join("image");
        let workload = Workload { len_max: 32 << 20, ..kind.workload(seed) };
        let outcome = workload.run(&image.options, &Arc::default());
        // What one of them needs depends on who is first.
        reported += u32::from(is_reported(&outcome));
        if let Err(error) = compare(kind, &image, &outcome) {
            panic!("seed {seed}: {error}");
        }
    }
    assert!(reported > 0, "there was room for all");
}

/// A filesystem with little room.
struct SmallFilesystem {
    dir: TempDir,
}

impl SmallFilesystem {
    /// It holds a copy of a file, as `image`, and can hold a little more.
    fn holding(file: &Path) -> Self {
        const MORE: u64 = 256 << 10;
        let dir = tempfile::tempdir().unwrap();
        let room = fs::metadata(file).unwrap().len() + MORE;
        let options = CString::new(format!("size={room}")).unwrap();
        mount("test", dir.path(), "tmpfs", MountFlags::empty(), Some(options.as_c_str())).unwrap();
        let small = Self { dir };
        fs::copy(file, small.dir.path().join("image")).unwrap();
        small
    }
}

impl Drop for SmallFilesystem {
    fn drop(&mut self) {
        let unmounted = unmount(self.dir.path(), UnmountFlags::DETACH);
        // A test that panics already says more.
        assert!(unmounted.is_ok() || thread::panicking(), "{unmounted:?}");
    }
}
