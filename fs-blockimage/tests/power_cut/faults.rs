//! A host that fails, at each operation in turn.

use std::{fs, sync::Arc};

use crate::{
    cuts::{Kind, is_long},
    model::Model,
    recorder::{Fault, Recorder},
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
    let Outcome { log, content } = outcome;

    let end = log.now + 1;
    let mut seed = Seed::part(fault.nth, u64::MAX);
    let model = Model { initial: &image.content, ops: &log.guest };
    let accept = |what: &str, result: Result<(), String>| {
        if let Err(error) = result {
            let nth = fault.nth;
            panic!("{what} after {fault:?}: {error}\n{NTH}={nth} repeats this fault");
        }
    };
    let mut look = |file: Vec<u8>| model.check(end, &kind.content(&image, file, &mut seed)?);
    if let Some(content) = &content {
        accept("reading", model.check(end, content));
    }
    accept("the file", look(fs::read(&image.options.path).unwrap()));
    let mut choice = Seed::part(fault.nth, 0);
    accept("a power cut", look(remains(&before, &log.host, end, &mut choice)));

    let has_failed = log.host.iter().any(|op| op.has_failed());
    let is_reported = content.is_none() || log.guest.iter().any(|op| op.has_failed());
    if has_failed && !is_reported {
        accept("the answer", Err("nobody was told".into()));
    }
    has_failed
}
