//! Other processes that use a mount, to be killed and interrupted.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::Pid;

use super::sys::{ALL, Bytes, interrupted_by_usr1, lock, signal_thread};

/// Tells a test binary that it is such a process, and what to do.
const PART: &str = "FSRV_TEST_CLIENT";

/// Says that the process has done the first part of its work.
const READY: &str = "client is ready";

/// What a process does with a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// Waits for a lock of the whole file, and prints what came.
    WaitForLock,
    WaitForOfdLock,
    WaitForFlock,
    /// Holds a lock until it is killed.
    HoldLock,
    HoldFlock,
    /// Adds one to the number in the file, under a lock, this many times.
    Count,
    /// Opens, writes, renames and locks without end in a directory.
    Churn,
}

const PARTS: [Part; 7] = [
    Part::WaitForLock,
    Part::WaitForOfdLock,
    Part::WaitForFlock,
    Part::HoldLock,
    Part::HoldFlock,
    Part::Count,
    Part::Churn,
];

/// How often [`Part::Count`] counts.
pub(super) const COUNTS: u32 = 1000;

/// A process, killed when this drops.
pub(super) struct Client {
    child: Child,
    /// The thread that plays the part.
    thread: i32,
    output: BufReader<ChildStdout>,
}

impl Client {
    /// Starts a process, and waits until it has begun its part.
    pub(super) fn start(part: Part, path: &Path) -> Self {
        // A test that is killed runs no destructors; its clients then get the signal from the kernel.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(std::env::current_exe().expect("this binary"))
            .args(["--exact", "semantics::client::other_process", "--ignored", "--nocapture"])
            .env(PART, format!("{part:?}:{}", path.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut client = Self { child, thread: 0, output };
        let line = client.line_with(READY);
        let thread = line.split_whitespace().next_back().and_then(|word| word.parse().ok());
        client.thread = thread.expect("the number of a thread");
        client
    }

    fn line_with(&mut self, word: &str) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).expect("a line") > 0 {
            if line.contains(word) {
                return line;
            }
            line.clear();
        }
        panic!("the process ended without {word:?}");
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(super) fn kill(mut self) {
        self.child.kill().expect("a running process");
        self.child.wait().expect("its end");
    }

    /// Waits for what the process says of its lock.
    pub(super) fn outcome(mut self) -> String {
        let line = self.line_with("lock: ");
        self.child.wait().expect("its end");
        line.trim().to_owned()
    }

    /// Interrupts the process until it says what became of its lock.
    pub(super) fn outcome_after_signals(mut self) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        // A signal that comes before the system call interrupts nothing, so there are many.
        while self.child.try_wait().expect("a process of ours").is_none() {
            assert!(Instant::now() < deadline, "signals interrupt nothing");
            let _ended_meanwhile = signal_thread(self.pid(), self.thread, libc::SIGUSR1);
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("what it said");
        rest.lines().find(|line| line.contains("lock: ")).expect("an outcome").trim().to_owned()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: what a process started by one does.
#[test]
#[ignore = "other tests start it"]
fn other_process() {
    let Some(part) = std::env::var_os(PART) else { return };
    let part = part.into_string().expect("a part");
    let (name, path) = part.split_once(':').expect("a part and a path");
    let part = PARTS.into_iter().find(|part| format!("{part:?}") == name).expect("a known part");
    play(part, Path::new(path));
}

fn play(part: Part, path: &Path) {
    if part == Part::Churn {
        ready();
        churn(path);
    }
    let file = OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let wait_for = |command| {
        interrupted_by_usr1();
        ready();
        let outcome = lock(&file, command, libc::F_WRLCK, ALL).map(drop);
        println!("lock: {}", describe(outcome));
    };
    match part {
        Part::WaitForLock => wait_for(libc::F_SETLKW),
        Part::WaitForOfdLock => wait_for(libc::F_OFD_SETLKW),
        Part::WaitForFlock => {
            interrupted_by_usr1();
            ready();
            let outcome = flock(&file, FlockOperation::LockExclusive);
            println!("lock: {}", describe(outcome.map_err(Into::into)));
        }
        Part::HoldLock => {
            lock(&file, libc::F_SETLK, libc::F_WRLCK, ALL).expect("a lock");
            hold();
        }
        Part::HoldFlock => {
            flock(&file, FlockOperation::NonBlockingLockExclusive).expect("a lock");
            hold();
        }
        Part::Count => {
            ready();
            (0..COUNTS).for_each(|_| count(&file));
            println!("lock: counted");
        }
        Part::Churn => unreachable!("it has no end"),
    }
}

fn ready() {
    println!("{READY}: {}", rustix::thread::gettid().as_raw_nonzero());
}

fn describe(outcome: std::io::Result<()>) -> String {
    match outcome {
        Ok(()) => "granted".into(),
        Err(error) => format!("{error}"),
    }
}

fn hold() {
    ready();
    loop {
        std::thread::park();
    }
}

fn count(file: &File) {
    let bytes = Bytes { start: 0, len: 1 };
    lock(file, libc::F_SETLKW, libc::F_WRLCK, bytes).expect("a lock");
    let mut number = [0; 4];
    file.read_exact_at(&mut number, 0).expect("a number");
    let number = u32::from_ne_bytes(number) + 1;
    file.write_all_at(&number.to_ne_bytes(), 0).expect("a longer number");
    lock(file, libc::F_SETLK, libc::F_UNLCK, bytes).expect("an unlock");
}

/// Every kind of state that a server keeps for a client: handles, locks, lookups, requests in flight.
fn churn(dir: &Path) -> ! {
    let own = dir.join(std::process::id().to_string());
    fs::create_dir(&own).expect("a directory");
    for turn in 0_u64.. {
        let path = own.join(format!("{}", turn % 50));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).mode(0o644).open(&path);
        let file = file.expect("a file");
        lock(&file, libc::F_SETLK, libc::F_WRLCK, ALL).expect("a lock");
        flock(&file, FlockOperation::NonBlockingLockExclusive).expect("a lock");
        file.write_all_at(&[7; 100_000], 0).expect("room");
        let _ = fs::read_dir(&own).expect("a directory").count();
        fs::rename(&path, own.join("renamed")).expect("a new name");
    }
    unreachable!("the kernel ends it")
}
