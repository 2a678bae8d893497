//! A running server and what it holds.

use std::env;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fsrv_frontend::abi::ROOT;
use fsrv_frontend::{Mount, MountOptions, Socket};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::served::{FSRV, directory};

/// How long the server may take for what it does at once.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// What is in the file that every served directory has.
pub(super) const CONTENT: &[u8] = b"what a front-end reads";

/// A server of one directory. It is gone when the value is dropped.
pub(super) struct Device {
    pub(super) server: Child,
    log: File,
    place: TempDir,
}

/// What a process holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Footprint {
    pub(super) descriptors: usize,
    /// Mapped memory of front-ends.
    pub(super) guests: usize,
    /// Threads that do not come and go, as those do that wait for files.
    pub(super) threads: usize,
}

/// The server to test.
pub(super) fn fsrv() -> PathBuf {
    env::var_os("FSRV_TEST_BINARY").map_or_else(|| PathBuf::from(FSRV), PathBuf::from)
}

/// A directory with a file called `file`, beside a place for a socket.
pub(super) fn place() -> TempDir {
    let place = directory();
    fs::create_dir(place.path().join("shared")).expect("a directory");
    fs::write(place.path().join("shared/file"), CONTENT).expect("a file");
    place
}

impl Device {
    pub(super) fn new(args: &[&str]) -> Self {
        Self::at(place(), args)
    }

    /// Started by `setpriv` with these options, and programs that they name.
    pub(super) fn with_rights(rights: &[&str], args: &[&str]) -> Self {
        let place = place();
        let socket = place.path().join("socket");
        let mut device = Self::started_by(place, rights, |command| {
            command.arg("--vhost-user").arg(&socket).args(args);
        });
        device.wait_for_log("serving ");
        device
    }

    pub(super) fn at(place: TempDir, args: &[&str]) -> Self {
        let socket = place.path().join("socket");
        let mut device = Self::start(place, |command| {
            command.arg("--vhost-user").arg(&socket).args(args);
        });
        device.wait_for_log("serving ");
        device
    }

    /// Started with what `more` adds to the command; nothing is waited for.
    pub(super) fn start(place: TempDir, more: impl FnOnce(&mut Command)) -> Self {
        Self::started_by(place, &[], more)
    }

    /// As [`Device::start`], with options for `setpriv`.
    fn started_by(place: TempDir, rights: &[&str], more: impl FnOnce(&mut Command)) -> Self {
        let log = tempfile::tempfile().expect("a log");
        let output = || Stdio::from(log.try_clone().expect("a log"));
        // A test that is killed runs no destructors; its server then gets the signal from the kernel.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(rights).arg(fsrv());
        command.arg("serve").arg("--dir").arg(place.path().join("shared"));
        more(&mut command);
        let command = command.stdin(Stdio::null()).stdout(output()).stderr(output());
        let server = command.spawn().expect("setpriv runs");
        Self { server, log, place }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.place.path().join("socket")
    }

    pub(super) fn shared(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.place.path().join("shared").join(Path::new(name.as_ref()))
    }

    /// A connection to which nothing was said.
    pub(super) fn connect(&self) -> Socket {
        Socket::connect_within(&self.socket(), SOON).expect("a server that listens")
    }

    pub(super) fn mount(&self) -> Mount {
        self.mount_with(&MountOptions::default())
    }

    pub(super) fn mount_with(&self, options: &MountOptions) -> Mount {
        Mount::on_socket(self.connect(), options)
            .unwrap_or_else(|error| panic!("no mount: {error:?}; {}", self.log()))
    }

    /// A front-end comes, reads the file and leaves.
    pub(super) fn serves_another(&self) {
        let mut mount = self.mount();
        reads_file(&mut mount);
        mount.unmount().unwrap_or_else(|error| panic!("{error:?}; {}", self.log()));
    }

    /// What has been printed so far.
    pub(super) fn log(&self) -> String {
        let mut bytes = vec![0; self.log.metadata().expect("a log").len() as usize];
        self.log.read_exact_at(&mut bytes, 0).expect("a readable log");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(super) fn wait_for_log(&mut self, words: &str) {
        until(SOON, || {
            if self.log().contains(words) {
                return Ok(());
            }
            if let Some(status) = self.server.try_wait().expect("a child") {
                panic!("{status}: {}", self.log());
            }
            Err(format!("no {words:?} in {}", self.log()))
        });
    }

    pub(super) fn pid(&self) -> u32 {
        self.server.id()
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).expect("a running server");
    }

    /// How it ended, within `limit`.
    pub(super) fn ended(&mut self, limit: Duration) -> ExitStatus {
        let log = self.log.try_clone().expect("a log");
        until(limit, || match self.server.try_wait().expect("a child") {
            Some(status) => Ok(status),
            None => Err(format!("still running, log of {} bytes", log.metadata().unwrap().len())),
        })
    }

    /// What it holds after a first front-end, which makes it allocate what it keeps.
    pub(super) fn footprint(&self) -> Footprint {
        self.serves_another();
        // The end of a session follows the end of its connection.
        let mut last = Footprint::of(self.pid());
        until(SOON, || {
            sleep(Duration::from_millis(50));
            let now = Footprint::of(self.pid());
            let (is_same, guests) = (now == last, now.guests);
            last = now.clone();
            if is_same && guests == 0 { Ok(now) } else { Err(format!("{now:?}")) }
        })
    }

    /// Nothing is held any more that was not held `before`, after at most `limit`.
    pub(super) fn is_as(&mut self, before: &Footprint, limit: Duration) {
        if let Some(status) = self.server.try_wait().expect("a child") {
            panic!("the server ended: {status}; {}", self.log());
        }
        until(limit, || {
            let now = Footprint::of(self.pid());
            if now.descriptors <= before.descriptors
                && now.guests == before.guests
                && now.threads == before.threads
            {
                return Ok(());
            }
            Err(format!("{now:?} after {before:?}: {:?}; {}", links(self.pid()), self.log()))
        });
    }

    /// SIGTERM ends it as it should.
    pub(super) fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.ended(SOON);
        assert!(status.success(), "{status}: {}", self.log());
        assert!(!self.socket().exists(), "the socket is left");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Footprint {
    pub(super) fn of(pid: u32) -> Self {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        let is_helper = |name: &String| {
            ["fsrv-pool", "fsrv-closer", "fsrv-aside", "iou-"]
                .iter()
                .any(|helper| name.starts_with(helper))
        };
        Self {
            descriptors: links(pid).len(),
            guests: maps.lines().filter(|line| line.contains("/memfd:")).count(),
            threads: names.filter(|name| !is_helper(name)).count(),
        }
    }
}

fn links(pid: u32) -> Vec<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|link| fs::read_link(link.path()).ok()).collect()
}

/// Reads the file that every served directory has.
pub(super) fn reads_file(mount: &mut Mount) {
    let client = mount.client();
    let file = client.lookup(ROOT, b"file").expect("a file");
    let open = client.open(file.nodeid, 0).expect("an open file");
    assert_eq!(client.read(file.nodeid, open.fh, 0, 4096).expect("data"), CONTENT);
    client.release(file.nodeid, open.fh).expect("a release");
    client.forget(file.nodeid, 1).expect("a FORGET");
}

/// Asks until the answer is there.
pub(super) fn until<T>(limit: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) if Instant::now() >= deadline => panic!("not after {limit:?}: {why}"),
            Err(_) => sleep(Duration::from_millis(10)),
        }
    }
}
