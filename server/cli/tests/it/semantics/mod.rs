//! What programs see on a mount, compared with the directory itself wherever that says what is right.

mod caching;
mod client;
mod directories;
pub(crate) mod embedded;
mod exported;
mod files;
mod flags;
mod kill;
mod limits;
mod locks;
mod names;
mod one_user;
mod owners;
mod ranges;
mod reserve;
mod size_limit;
mod slow;
mod suid;
mod suid_seen;
pub(crate) mod sys;
mod times;
mod unlinked;
pub(crate) mod user;
mod writeback;
mod xattrs;

use std::fmt::Debug;
use std::path::Path;

use crate::served::{Served, THREADS_NEVER, URING_PREFER, directory};

/// Both corners of the matrix, and both ways that data takes.
const CORNERS: [&[&str]; 3] = [
    &URING_PREFER,
    &THREADS_NEVER,
    &["--io-engine", "uring", "--inode-file-handles", "prefer", "--cache", "never"],
];

/// Lets `act` loose on an empty directory, natively and on mounts: it must see the same.
fn alike<S: PartialEq + Debug>(act: impl Fn(&Path) -> S) {
    alike_with(&[], act);
}

/// As [`alike`], with more options for the server.
fn alike_with<S: PartialEq + Debug>(options: &[&str], act: impl Fn(&Path) -> S) {
    let native = directory();
    let expected = act(native.path());
    for corner in CORNERS {
        let served = Served::new(&[corner, options].concat());
        let seen = act(served.mounted());
        let differences = || differences(&seen, &expected);
        assert!(seen == expected, "mounted with {corner:?} and native:{}", differences());
        served.stop();
    }
}

/// The lines that are not the same: a transcript is long.
fn differences(seen: &impl Debug, expected: &impl Debug) -> String {
    let (seen, expected) = (format!("{seen:#?}"), format!("{expected:#?}"));
    let pairs = seen.lines().zip(expected.lines()).filter(|(seen, expected)| seen != expected);
    pairs.take(40).map(|(seen, expected)| format!("\n{seen} instead of {expected}")).collect()
}
