//! What programs see on a mount, compared with the directory itself wherever that says what is right.

mod client;
mod directories;
mod owners;
mod suid;
mod sys;
mod times;
mod user;

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
        assert_eq!(seen, expected, "left: mounted with {corner:?}, right: native");
        served.stop();
    }
}
