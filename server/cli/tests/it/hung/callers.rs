//! Many who wait for it, and those who do not.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_lock};
use tempfile::TempDir;

use super::{PATIENCE, Slow, soon, until};
use crate::served::{Served, THREADS_NEVER, URING_PREFER, directory};

/// Both corners, and one worker: whatever it waits for, everybody waits for.
const CORNERS: [&[&str]; 3] = [
    &URING_PREFER,
    &THREADS_NEVER,
    &[
        "--io-engine",
        "uring",
        "--inode-file-handles",
        "prefer",
        "--cache",
        "never",
        "--workers",
        "1",
    ],
];

/// A served directory with a local part and one that can hang.
pub(super) struct World {
    pub(super) slow: Slow,
    pub(super) served: Served,
    _source: TempDir,
}

/// What every file of the slow filesystem has in it.
pub(super) const CONTENT: &[u8] = &[b'x'; 20_000];

impl World {
    pub(super) fn new(args: &[&str]) -> Self {
        let (served, source) = (Served::new(args), directory());
        for number in 0..FILES {
            fs::write(source.path().join(format!("f{number}")), CONTENT).unwrap();
        }
        let slow = Slow::at(source.path(), &served.backing().join("hung"));
        fs::create_dir(served.backing().join("ok")).unwrap();
        fs::write(served.backing().join("ok/f"), "ok").unwrap();
        Self { slow, served, _source: source }
    }

    /// Something of the slow filesystem.
    pub(super) fn hung(&self, name: &str) -> PathBuf {
        self.served.mounted().join("hung").join(name)
    }

    pub(super) fn file(&self, number: usize) -> PathBuf {
        self.hung(&format!("f{number}"))
    }
}

pub(super) const FILES: usize = 40;

/// What one caller does, with a file that was open before as its standard input.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    Look,
    Read,
    Sync,
    Lock,
    Unlink,
    List,
    Open,
    Make,
}

impl Call {
    pub(super) const ALL: [Self; 8] = [
        Self::Look,
        Self::Read,
        Self::Sync,
        Self::Lock,
        Self::Unlink,
        Self::List,
        Self::Open,
        Self::Make,
    ];

    pub(super) fn start(self, world: &World, number: usize, open: &File) -> Child {
        let mut command = match self {
            Self::Look => {
                let mut command = Command::new("stat");
                command.arg(world.hung(&format!("nothing{number}")));
                command
            }
            Self::Read => {
                let mut command = Command::new("dd");
                command.args(["bs=4096", "count=1", "iflag=fullblock"]);
                command.arg(format!("skip={}", number % 4));
                command
            }
            Self::Sync => {
                let mut command = Command::new("dd");
                command.args(["if=/dev/null", "conv=notrunc,fsync"]);
                command.stdout(open.try_clone().unwrap());
                command
            }
            Self::Lock => {
                let mut command = Command::new("flock");
                command.args(["--nonblock", "0"]);
                command
            }
            Self::Unlink => {
                let mut command = Command::new("rm");
                command.arg("-f").arg(world.hung(&format!("gone{number}")));
                command
            }
            Self::List => {
                let mut command = Command::new("ls");
                command.arg("-f").arg(world.hung(""));
                command
            }
            Self::Open => {
                let mut command = Command::new("cat");
                command.arg(world.file(number % FILES));
                command
            }
            Self::Make => {
                let mut command = Command::new("mkdir");
                command.arg(world.hung(&format!("dir{number}")));
                command
            }
        };
        command.stdin(open.try_clone().unwrap());
        if !matches!(self, Self::Sync) {
            command.stdout(Stdio::null());
        }
        command.stderr(Stdio::null()).spawn().expect("a program that every machine has")
    }
}

/// How many callers wait.
pub(super) fn waiting(callers: &mut [Child]) -> usize {
    callers
        .iter_mut()
        .filter_map(|caller| caller.try_wait().unwrap().is_none().then_some(()))
        .count()
}

/// Everything that asks the rest of the mount, and a file that was open before.
fn others_go_on(mounted: &Path, mut local: File) {
    let mounted = mounted.to_owned();
    let at = |name: &str| mounted.join(name);
    let (file, root, new) = (at("ok/f"), mounted.clone(), at("new"));
    let start = std::time::Instant::now();
    assert_eq!(soon("reading a file", move || fs::read(file).unwrap()), b"ok");
    let names = soon("listing the root", move || fs::read_dir(root).unwrap().count());
    assert_eq!(names, 2);
    soon("an fsync", move || {
        local.write_all(b"ok").unwrap();
        local.sync_all().unwrap();
        fcntl_lock(&local, FlockOperation::NonBlockingLockExclusive).unwrap();
    });
    // Who changes the root waits for those who look something up in it.
    soon("making a file beside the mount point", move || {
        fs::write(&new, "new").unwrap();
        fs::remove_file(&new).unwrap();
    });
    // The mount point itself is there without being asked.
    let point = at("hung");
    soon("looking the mount point up", move || {
        rustix::fs::open(point, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    });
    println!("{:?} for all others", start.elapsed());
}

#[test]
fn a_thousand_callers_hang_and_all_others_go_on() {
    const CALLERS: usize = 1000;
    for corner in CORNERS {
        let world = World::new(corner);
        let local = File::options().append(true).open(world.served.mounted().join("ok/f")).unwrap();
        fs::write(world.served.backing().join("ok/f"), "").unwrap();
        // The client reads what it caches again after a second.
        fs::write(world.served.backing().join("ok/f"), "ok").unwrap();
        let open = |number| File::options().read(true).write(true).open(world.file(number));
        let files: Vec<_> = (0..FILES).map(|number| open(number).unwrap()).collect();
        world.slow.stop();
        let mut callers: Vec<_> = (0..CALLERS)
            .map(|number| {
                let call = Call::ALL[number % Call::ALL.len()];
                call.start(&world, number, &files[number % FILES])
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));

        others_go_on(world.served.mounted(), local);

        let waited = waiting(&mut callers);
        let log = world.served.mount.log().unwrap();
        let lines = log.lines().filter(|line| line.contains("too many requests wait")).count();
        println!("{corner:?}: {waited} wait, {lines} lines");
        assert!(waited >= 200, "{waited} wait: {log}");
        assert!(lines <= 1, "{log}");
        world.slow.go_on();
        until("all callers have ended", || waiting(&mut callers) == 0);
        let file = world.file(1);
        let read = super::within(PATIENCE, "reading", move || fs::read(file).unwrap());
        assert_eq!(read, CONTENT);
        drop(files);
        world.served.stop();
    }
}

#[test]
fn what_hung_is_right_when_it_goes_on() {
    for corner in CORNERS {
        let world = World::new(corner);
        let file = File::options().read(true).write(true).open(world.file(0)).unwrap();
        world.slow.stop();
        let mut callers: Vec<_> =
            Call::ALL.iter().map(|call| call.start(&world, 7, &file)).collect();
        std::thread::sleep(Duration::from_millis(300));
        world.slow.go_on();
        let codes: Vec<_> =
            callers.iter_mut().map(|caller| caller.wait().unwrap().code()).collect();
        // Only the name that is not there is an error.
        let expected: Vec<_> = [1, 0, 0, 0, 0, 0, 0, 0].into_iter().map(Some).collect();
        assert_eq!(codes, expected, "{corner:?}: {:?}", Call::ALL);
        assert!(world.hung("dir7").is_dir());
        drop(file);
        world.served.stop();
    }
}
