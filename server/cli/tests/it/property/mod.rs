//! Random operations on the mount and on the native directory, by root and by an ordinary user, while caches are
//! dropped: the same answers, and in the end the same trees.

mod op;
mod side;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::TestCaseError;
use proptest::test_runner::TestRunner;

use crate::seeds;
use crate::served::{Served, THREADS_NEVER, URING_PREFER, directory};
use op::Step;
use side::Side;
use tree::{Detail, describe};

/// Where a case runs: a directory of its own in each of these.
struct Places<'a> {
    native: &'a Path,
    mounted: &'a Path,
    /// What the server serves as `mounted`.
    backing: &'a Path,
}

fn exercise(places: &Places) {
    rustix::process::umask(rustix::fs::Mode::from(0o022));
    let mut runner = TestRunner::new(seeds::cases(256));
    let tick = side::tick(places.native).expect("a directory");
    let outcome = runner.run(&op::steps(), |steps| case(places, tick, &steps));
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// One sequence, from two empty directories on.
fn case(places: &Places, tick: Duration, steps: &[Step]) -> Result<(), TestCaseError> {
    let native = tempfile::Builder::new().permissions(open_to_all()).tempdir_in(places.native)?;
    let mounted = tempfile::Builder::new().permissions(open_to_all()).tempdir_in(places.mounted)?;
    let name = mounted.path().file_name().expect("a name");
    let backing = places.backing.join(name);

    let (mut natively, mut on_mount) =
        (Side::new(native.path(), tick), Side::new(mounted.path(), tick));
    for (number, step) in op::prelude().iter().chain(steps).enumerate() {
        let (expected, got) = (natively.apply(step), on_mount.apply(step));
        if expected != got {
            return fail(&format!(
                "step {number}, {step:?}\n  natively     {expected}\n  on the mount {got}"
            ));
        }
    }
    same(
        "natively",
        &describe(native.path(), Detail::Twins)?,
        &describe(mounted.path(), Detail::Twins)?,
    )?;
    same(
        "behind it",
        &describe(&backing, Detail::OneTree)?,
        &describe(mounted.path(), Detail::OneTree)?,
    )
}

fn open_to_all() -> fs::Permissions {
    fs::Permissions::from_mode(0o777)
}

fn same(
    place: &str,
    expected: &BTreeMap<PathBuf, String>,
    got: &BTreeMap<PathBuf, String>,
) -> Result<(), TestCaseError> {
    for path in expected.keys().chain(got.keys()) {
        let (expected, got) = (expected.get(path), got.get(path));
        if expected != got {
            return fail(&format!(
                "in the end, {path:?}\n  {place:12} {expected:?}\n  on the mount {got:?}"
            ));
        }
    }
    Ok(())
}

fn fail(why: &str) -> Result<(), TestCaseError> {
    Err(TestCaseError::fail(why.to_string()))
}

fn on_mount(args: &[&str]) {
    let native = directory();
    let served = Served::new(args);
    exercise(&Places {
        native: native.path(),
        mounted: served.mounted(),
        backing: served.backing(),
    });
    served.stop();
}

#[test]
fn two_native_directories_answer_the_same() {
    let (native, other) = (directory(), directory());
    exercise(&Places { native: native.path(), mounted: other.path(), backing: other.path() });
}

#[test]
fn mount_answers_as_native_with_uring_and_handles() {
    on_mount(&URING_PREFER);
}

#[test]
fn mount_answers_as_native_with_threads_and_no_handles() {
    on_mount(&THREADS_NEVER);
}

#[test]
fn mount_answers_as_native_without_a_cache() {
    on_mount(&["--cache", "never"]);
}

#[test]
fn mount_answers_as_native_with_everything_cached() {
    on_mount(&["--cache", "always"]);
}
