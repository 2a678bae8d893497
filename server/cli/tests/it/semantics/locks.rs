//! Locks: between clients, between mounts, against the host, and their end.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::client::{COUNTS, Client, Part};
use super::sys::{ALL, Bytes, lock};
use super::{CORNERS, alike};
use crate::mount::Mount;
use crate::served::{FSRV, Served, directory};

/// Nothing here takes as long on any machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn counting_under_a_lock_loses_nothing_between_two_mounts_and_the_host() {
    for engine in ["uring", "threads"] {
        let args = ["--cache", "never", "--io-engine", engine];
        let first = Served::new(&args);
        let mountpoint = directory();
        let second = Mount::serve(Path::new(FSRV), first.backing(), mountpoint.path(), &args)
            .expect("a second mount");
        fs::write(first.backing().join("number"), 0_u32.to_ne_bytes()).unwrap();

        let places = [first.mounted(), first.mounted(), mountpoint.path(), first.backing()];
        let clients = places.map(|dir| Client::start(Part::Count, &dir.join("number")));
        for client in clients {
            assert_eq!(client.outcome(), "lock: counted");
        }

        let number = fs::read(first.backing().join("number")).unwrap();
        assert_eq!(number, (4 * COUNTS).to_ne_bytes(), "with {engine}");
        second.stop().expect("a clean unmount");
        first.stop();
    }
}

#[test]
fn a_waiter_that_is_interrupted_says_so() {
    alike(|dir| {
        let path = new_file(dir);
        let posix = Client::start(Part::HoldLock, &path);
        let waiters = [Part::WaitForLock, Part::WaitForOfdLock];
        let waiters = waiters.map(|part| Client::start(part, &path));
        let mut outcomes = waiters.map(Client::outcome_after_signals).to_vec();
        posix.kill();
        let holder = Client::start(Part::HoldFlock, &path);
        outcomes.push(Client::start(Part::WaitForFlock, &path).outcome_after_signals());
        holder.kill();
        outcomes
    });
}

#[test]
fn whoever_is_killed_loses_all_locks() {
    on_all_sides(|dir, _, other| {
        for part in [Part::HoldLock, Part::HoldFlock] {
            let path = new_file(dir);
            let other = open(&other.join("file"));
            let holder = Client::start(part, &path);
            assert_eq!(try_lock(part, &other), Err(Errno::AGAIN), "{part:?} in {dir:?}");
            holder.kill();
            eventually(|| try_lock(part, &other).is_ok(), "the lock of the dead");
        }
    });
}

/// Each kind of lock, and a wait for it.
const HOLD_AND_WAIT: [(Part, Part); 3] = [
    (Part::HoldLock, Part::WaitForLock),
    (Part::HoldLock, Part::WaitForOfdLock),
    (Part::HoldFlock, Part::WaitForFlock),
];

#[test]
fn whoever_waits_gets_the_lock_of_the_killed() {
    on_all_sides(|dir, _, other| {
        for (hold, wait) in HOLD_AND_WAIT {
            let path = new_file(dir);
            let holder = Client::start(hold, &path);
            let waiter = Client::start(wait, &other.join("file"));
            holder.kill();
            assert_eq!(waiter.outcome(), "lock: granted", "{wait:?} in {other:?}");
        }
    });
}

#[test]
fn a_killed_waiter_leaves_nothing() {
    on_all_sides(|dir, native, other| {
        for (hold, wait) in HOLD_AND_WAIT {
            let path = new_file(dir);
            let holder = Client::start(hold, &path);
            for _ in 0..3 {
                let waiter = Client::start(wait, &other.join("file"));
                // It may be killed before or while it waits.
                sleep(Duration::from_millis(20));
                waiter.kill();
            }
            holder.kill();
            let host = open(&native.join("file"));
            eventually(|| try_lock(hold, &host).is_ok(), "a lock on the host");
            drop(host);
            let client = open(&path);
            eventually(|| try_lock(hold, &client).is_ok(), "a lock on the mount");
        }
    });
}

/// Calls `check` with a directory for the holder, the directory itself, and one for the other: on one
/// mount, on two, and against the host both ways.
fn on_all_sides(check: impl Fn(&Path, &Path, &Path)) {
    for corner in CORNERS {
        let served = Served::new(corner);
        let (mounted, native) = (served.mounted(), served.backing());
        check(mounted, native, mounted);
        check(mounted, native, native);
        check(native, native, mounted);
        let mountpoint = directory();
        let second = Mount::serve(Path::new(FSRV), native, mountpoint.path(), corner);
        let second = second.expect("a second mount");
        check(mounted, native, mountpoint.path());
        second.stop().expect("a clean unmount");
        served.stop();
    }
}

#[test]
fn locks_of_a_process_end_with_any_close_and_those_of_an_open_file_with_its_own() {
    alike(|dir| {
        let path = new_file(dir);
        let mut seen = Vec::new();
        for (command, probe) in
            [(libc::F_SETLK, libc::F_OFD_GETLK), (libc::F_OFD_SETLK, libc::F_OFD_GETLK)]
        {
            let file = open(&path);
            let other = open(&path);
            let set = lock(&file, command, libc::F_WRLCK, Bytes { start: 10, len: 5 });
            let free = || lock(&other, probe, libc::F_WRLCK, ALL).unwrap().0 == libc::F_UNLCK;
            let before = free();
            drop(open(&path));
            let after_a_close = free();
            drop(file);
            eventually(free, "the lock of a closed file");
            seen.push((set.is_ok(), before, after_a_close));
        }
        seen
    });
}

#[test]
fn ranges_of_another_process_are_told_with_its_id() {
    alike(|dir| {
        let path = new_file(dir);
        let holder = Client::start(Part::HoldLock, &path);
        let file = open(&path);
        let kinds = [libc::F_RDLCK, libc::F_WRLCK];
        let told = kinds.map(|kind| {
            let (kind, pid) = lock(&file, libc::F_GETLK, kind, ALL).unwrap();
            (kind, pid == holder.pid().as_raw_nonzero().get())
        });
        let refused = kinds.map(|kind| {
            let result = lock(&file, libc::F_SETLK, kind, Bytes { start: 100, len: 1 });
            result.map_err(|error| error.raw_os_error())
        });
        // The two kinds of locks do not see each other.
        let flocked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        holder.kill();
        (told, refused, flocked)
    });
}

#[test]
fn locks_need_a_file_open_for_them() {
    alike(|dir| {
        let path = new_file(dir);
        let read = File::open(&path).unwrap();
        let write = File::options().write(true).open(&path).unwrap();
        let directory = File::open(dir).unwrap();
        let mut seen = Vec::new();
        for file in [&read, &write, &directory] {
            for kind in [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK] {
                for command in [libc::F_SETLK, libc::F_OFD_SETLK] {
                    let result = lock(file, command, kind, ALL).map(drop);
                    seen.push(result.map_err(|error| error.raw_os_error()));
                    let _ = lock(file, command, libc::F_UNLCK, ALL);
                }
            }
            let flocked = flock(file, FlockOperation::NonBlockingLockExclusive);
            seen.push(flocked.map_err(|errno| Some(errno.raw_os_error())));
        }
        seen
    });
}

#[test]
fn a_flock_changes_its_kind_and_goes_with_the_last_descriptor() {
    alike(|dir| {
        let path = new_file(dir);
        let (first, second) = (open(&path), open(&path));
        let shared = FlockOperation::NonBlockingLockShared;
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let steps = [
            flock(&first, shared),
            flock(&second, shared),
            flock(&first, exclusive),
            flock(&second, FlockOperation::Unlock),
            flock(&first, exclusive),
            flock(&second, shared),
        ];
        let copy = first.try_clone().unwrap();
        drop(first);
        let held_by_the_copy = flock(&second, shared);
        drop(copy);
        // The kernel tells the server of a close, and does not wait for the answer.
        eventually(|| flock(&second, exclusive).is_ok(), "the flock of a closed file");
        (steps, held_by_the_copy)
    });
}

fn try_lock(part: Part, file: impl AsFd) -> Result<(), Errno> {
    if part == Part::HoldFlock {
        return flock(file, FlockOperation::NonBlockingLockExclusive);
    }
    let result = lock(file, libc::F_OFD_SETLK, libc::F_WRLCK, ALL).map(drop);
    result.map_err(|error| Errno::from_io_error(&error).expect("an error of the kernel"))
}

fn eventually(mut done: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "no {what} after {PATIENCE:?}");
        sleep(Duration::from_millis(5));
    }
}

fn new_file(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("file");
    fs::write(&path, "content").unwrap();
    path
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}
