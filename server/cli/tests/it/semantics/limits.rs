//! More files than descriptors.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::path::Path;
use std::sync::Barrier;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::fs::inotify;
use rustix::io::Errno;

use super::sys::{self, ALL, Bytes, own_descriptors};
use crate::served::Served;

/// How long a client may be refused, until the server has closed what it no longer needs.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn more_files_than_descriptors_are_known_at_once_by_their_handles() {
    const FILES: usize = 25_000;
    let served = Served::new(&["--rlimit-nofile", "20000", "--inode-file-handles", "mandatory"]);
    fill(served.backing(), FILES);
    let dir = served.mounted();
    let before = descriptors(&served);

    // A watch keeps the client's kernel from forgetting the file, and takes no descriptor.
    let watches = watches();
    for number in 0..FILES {
        watch(&watches, &dir.join(number.to_string())).expect("a known file");
    }
    let during = descriptors(&served);

    assert!(during < before + 1200, "{during} descriptors for {FILES} files");
    assert_eq!(fs::read_dir(dir).unwrap().map(Result::unwrap).count(), FILES);
    for number in (0..FILES).step_by(997) {
        assert_eq!(fs::read(dir.join(number.to_string())).unwrap(), number.to_string().as_bytes());
    }
    drop(watches);
    served.stop();
}

#[test]
fn without_handles_too_many_known_files_are_refused_and_nothing_else_breaks() {
    const FILES: usize = 5000;
    const LIMIT: usize = 2000;
    let served =
        Served::new(&["--rlimit-nofile", &LIMIT.to_string(), "--inode-file-handles", "never"]);
    fill(served.backing(), FILES);
    let dir = served.mounted();
    let before = descriptors(&served);

    let watches = watches();
    let mut known = 0;
    for number in 0..FILES {
        match watch(&watches, &dir.join(number.to_string())) {
            Ok(()) => known += 1,
            Err(Errno::NFILE) => {}
            Err(errno) => panic!("{errno:?} at {number}"),
        }
    }
    assert!(known > LIMIT / 2 && known < LIMIT, "{known} of {FILES} files known");
    assert!(descriptors(&served) <= LIMIT);

    // Names come although nothing more can be looked up, with attributes asked for or not.
    assert_eq!(fs::read_dir(dir).unwrap().map(Result::unwrap).count(), FILES);
    let with_attributes = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata());
    let refused = with_attributes.filter(|result| match result {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::ENFILE));
            true
        }
    });
    assert!(refused.count() <= FILES - known);

    // Known files go on, open ones too.
    let file = File::open(dir.join("0")).expect("a spare descriptor");
    assert_eq!(io::read_to_string(&file).unwrap(), "0");
    drop((watches, file));

    // What nobody uses makes room: each file can be had in the end.
    for number in 0..FILES {
        eventually(&dir.join(number.to_string()));
    }
    fs::write("/proc/sys/vm/drop_caches", "2").expect("these tests run as root");
    let deadline = Instant::now() + PATIENCE;
    while descriptors(&served) > before + 20 {
        assert!(Instant::now() < deadline, "{} descriptors stay open", descriptors(&served));
        fs::write("/proc/sys/vm/drop_caches", "2").expect("these tests run as root");
        sleep(Duration::from_millis(50));
    }
    served.stop();
}

#[test]
fn too_many_open_files_are_refused_and_closed_ones_make_room() {
    for handles in ["never", "prefer"] {
        let served = Served::new(&["--rlimit-nofile", "500", "--inode-file-handles", handles]);
        fill(served.backing(), 10);
        let dir = served.mounted();
        let (mut open, mut refused) = (Vec::new(), 0);
        for number in 0..700 {
            match File::open(dir.join((number % 10).to_string())) {
                Ok(file) => open.push(file),
                Err(error) => {
                    let errno = error.raw_os_error();
                    assert!(matches!(errno, Some(libc::ENFILE)), "{errno:?} with {handles}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0 && open.len() > 200, "{} open with {handles}", open.len());
        // What is open goes on working.
        for file in &open {
            assert_eq!(file.metadata().unwrap().len(), 1);
        }
        drop(open);
        eventually(&dir.join("3"));
        served.stop();
    }
}

#[test]
fn a_client_that_uses_its_files_is_not_asked_for_them_all_the_time() {
    const FILES: usize = 400;
    let served = Served::new(&["--rlimit-nofile", "400", "--inode-file-handles", "never"]);
    fill(served.backing(), FILES);
    let watches = watches();
    // As many as there can be: all of them are in use.
    let known =
        |number: &usize| watch(&watches, &served.mounted().join(number.to_string())).is_ok();
    let known = (0..FILES).filter(known).count();
    assert!(known < FILES, "{known} known");

    let before = rests(&served, "fsrv-prune");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        // Each asks for descriptors.
        assert!(fs::metadata(served.mounted().join((FILES - 1).to_string())).is_err());
        sleep(Duration::from_millis(1));
    }
    // Every 20 ms it would be a hundred times.
    let rests = rests(&served, "fsrv-prune") - before;
    assert!(rests < 40, "asked about {rests} times");
    drop(watches);
    served.stop();
}

/// How often the thread called `name` went to sleep.
fn rests(served: &Served, name: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", served.mount.pid())).unwrap();
    let is_it =
        |task: &Path| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let task = tasks.map(|task| task.unwrap().path()).find(|task| is_it(task)).expect("a thread");
    let status = fs::read_to_string(task.join("status")).unwrap();
    let of = |line: &str| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok();
    status.lines().find_map(of).expect("a number")
}

#[test]
fn owners_of_locks_leave_descriptors_to_others() {
    const OWNERS: i64 = 320;
    const LIMIT: usize = 300;
    for handles in ["never", "prefer"] {
        let limit = LIMIT.to_string();
        let served = Served::new(&["--rlimit-nofile", &limit, "--inode-file-handles", handles]);
        fill(served.backing(), 3);
        let dir = served.mounted();
        // So that it is known.
        fs::metadata(dir.join("1")).unwrap();
        let file = File::options().read(true).write(true).open(dir.join("2")).unwrap();
        let held = Barrier::new(OWNERS as usize + 1);
        let seen = Barrier::new(OWNERS as usize + 1);
        let lock = |start| {
            own_descriptors().unwrap();
            let byte = Bytes { start, len: 1 };
            let outcome = sys::lock(&file, libc::F_SETLK, libc::F_WRLCK, byte);
            held.wait();
            seen.wait();
            outcome.map(drop).map_err(|error| error.raw_os_error())
        };
        let lock = &lock;
        let outcomes = thread::scope(|scope| {
            let owners = (0..OWNERS).map(|start| scope.spawn(move || lock(start)));
            let owners: Vec<_> = owners.collect();
            held.wait();
            let others = panic::catch_unwind(|| {
                assert!(descriptors(&served) <= LIMIT);
                assert_eq!(fs::read(dir.join("1")).unwrap(), b"1", "with {handles}");
                assert_eq!(fs::read(dir.join("0")).unwrap(), b"0", "with {handles}");
                assert_eq!(fs::read_dir(dir).unwrap().count(), 3);
                fs::write(dir.join("new"), "").unwrap();
                fs::remove_file(dir.join("new")).unwrap();
            });
            seen.wait();
            others.unwrap_or_else(|panic| panic::resume_unwind(panic));
            owners.into_iter().map(|owner| owner.join().unwrap()).collect::<Vec<_>>()
        });
        let refused = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        let only_enolck =
            |outcome: &Result<(), _>| matches!(outcome, Ok(()) | Err(Some(libc::ENOLCK)));
        assert!(outcomes.iter().all(only_enolck), "with {handles}: {outcomes:?}");
        assert!(refused > 0 && refused < OWNERS as usize - 40, "{refused} refused with {handles}");
        // Their end makes room.
        sys::lock(&file, libc::F_SETLK, libc::F_WRLCK, ALL).unwrap();
        drop(file);
        served.stop();
    }
}

/// Reads a file, however often the server has to be asked.
fn eventually(path: &Path) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fs::read(path) {
            Ok(content) => {
                assert_eq!(content, path.file_name().unwrap().as_encoded_bytes());
                return;
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENFILE), "{path:?}"),
        }
        assert!(Instant::now() < deadline, "{} is refused for good", path.display());
        sleep(Duration::from_millis(20));
    }
}

fn fill(dir: &Path, files: usize) {
    for number in 0..files {
        fs::write(dir.join(number.to_string()), number.to_string()).unwrap();
    }
}

fn watches() -> std::os::fd::OwnedFd {
    inotify::init(inotify::CreateFlags::CLOEXEC).expect("inotify")
}

fn watch(watches: &std::os::fd::OwnedFd, path: &Path) -> rustix::io::Result<()> {
    inotify::add_watch(watches, path, inotify::WatchFlags::ATTRIB).map(drop)?;
    rustix::fs::stat(path).map(drop)
}

/// How many descriptors the server has.
pub(super) fn descriptors(served: &Served) -> usize {
    let path = format!("/proc/{}/fd", served.mount.pid());
    // Its own directory is one of nobody's.
    assert!(fs::metadata(&path).is_ok_and(|stat| stat.nlink() > 0), "the server has ended");
    fs::read_dir(path).expect("a running server").count()
}
