//! A server that may have no more threads, as in a container (pids cgroup) or a service (TasksMax=).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::{Pid, Signal, kill_process};

use crate::mount::is_mounted;
use crate::served::{FSRV, Served, directory};

pub(crate) const ENGINES: [&str; 3] = ["uring", "threads", "auto"];
const BLOCK: usize = 4096;
const AT_ONCE: usize = 16;

/// How long a server may take to start, or to say why it cannot.
const SOON: Duration = Duration::from_secs(20);

/// A cgroup with a limit on threads and processes.
pub(crate) struct Pids(PathBuf);

impl Pids {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("fsrv-test-{}-{name}", std::process::id());
        // Version 1, and version 2 where its root has the controller.
        let made = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].into_iter().find_map(|root| {
            let group = Path::new(root).join(&name);
            fs::create_dir(&group).ok()?;
            let pids = Self(group);
            pids.0.join("pids.max").exists().then_some(pids)
        });
        made.expect("root may make a cgroup that counts processes")
    }

    /// `max` processes and threads.
    fn limit(&self, max: usize) {
        fs::write(self.0.join("pids.max"), max.to_string()).unwrap();
    }

    /// No more of them than there are.
    pub(crate) fn close(&self) {
        // Threads that are starting or ending are counted too.
        let mut now = 0;
        until(|| {
            let before = now;
            now = fs::read_to_string(self.0.join("pids.current")).unwrap().trim().parse().unwrap();
            thread::sleep(Duration::from_millis(50));
            before == now
        });
        self.limit(now);
    }

    pub(crate) fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// A command whose process is in the group when it becomes `program`.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        command.arg(self.0.join("cgroup.procs")).arg(program);
        command
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        // Processes that ended may still be in it.
        until(
            || !matches!(fs::remove_dir(&self.0), Err(error) if error.raw_os_error() == Some(libc::EBUSY)),
        );
    }
}

fn until(mut what: impl FnMut() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < SOON, "it does not come");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Ends with the test, however that ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server under each limit until it has enough threads. With fewer it says in one line that it has not.
fn starts_or_says_why(pids: &Pids, engine: &str, place: &[&str], is_there: impl Fn() -> bool) {
    let dir = directory();
    for max in 1.. {
        assert!(max < 40, "it never starts");
        pids.limit(max);
        let log = dir.path().join("log");
        let mut command = pids.command(FSRV);
        command.args(["serve", "--io-engine", engine, "--workers", "2", "--dir"]).arg(dir.path());
        command.args(place).stdin(Stdio::null()).stderr(File::create(&log).unwrap());
        let mut server = Server(command.spawn().unwrap());
        let mut ended = None;
        until(|| {
            ended = server.0.try_wait().unwrap();
            ended.is_some() || fs::read_to_string(&log).unwrap().contains("serving ")
        });
        let Some(status) = ended else {
            assert!(max > 2, "{max} are not enough");
            kill_process(Pid::from_child(&server.0), Signal::TERM).unwrap();
            until(|| server.0.try_wait().unwrap().is_some());
            return;
        };
        let said = fs::read_to_string(&log).unwrap();
        assert_eq!(status.code(), Some(1), "{max}: {said}");
        assert_eq!(said.lines().count(), 1, "{max}: {said}");
        for word in ["fsrv: cannot", "no more threads", "ulimit -u", "TasksMax="] {
            assert!(said.contains(word), "{max}: {said}");
        }
        assert!(!is_there(), "{max}: something is left");
    }
}

#[test]
fn a_mount_starts_or_says_in_one_line_that_it_has_too_few_threads() {
    for engine in ENGINES {
        let (pids, point) = (Pids::new(engine), directory());
        let at = point.path().to_str().unwrap();
        let is_there = || is_mounted(point.path()).unwrap();
        starts_or_says_why(&pids, engine, &["--fuse", at], is_there);
        assert!(!is_mounted(point.path()).unwrap());
    }
}

#[test]
fn a_device_starts_or_says_in_one_line_that_it_has_too_few_threads() {
    for engine in ENGINES {
        let (pids, place) = (Pids::new(&format!("vm-{engine}")), directory());
        let socket = place.path().join("socket");
        let at = ["--vhost-user", socket.to_str().unwrap()];
        starts_or_says_why(&pids, engine, &at, || socket.exists());
    }
}

/// Does to the files of `dir` what a server has done by threads.
fn works(dir: &Path) {
    let together = Barrier::new(AT_ONCE);
    let work = |nth: usize| -> io::Result<()> {
        let path = dir.join(format!("{nth}"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        let flags = [0, libc::O_DIRECT, libc::O_SYNC, libc::O_DSYNC][nth % 4];
        let file = options.custom_flags(flags).open(&path)?;
        let (mut data, written) = ([0; 2 * BLOCK], [nth as u8; 2 * BLOCK]);
        // O_DIRECT asks for memory on its own grid.
        let grid = data.as_ptr().align_offset(512);
        let from = written.as_ptr().align_offset(512);
        together.wait();
        for block in 0..8 {
            let at = (block * BLOCK) as u64;
            file.write_all_at(&written[from..from + BLOCK], at)?;
            file.sync_data()?;
            fallocate(&file, FallocateFlags::empty(), at, BLOCK as u64)?;
            file.sync_all()?;
            file.read_exact_at(&mut data[grid..grid + BLOCK], at)?;
            assert!(data[grid..grid + BLOCK].iter().all(|&byte| byte == nth as u8));
        }
        File::open(dir)?.sync_all()?;
        fs::rename(&path, dir.join(format!("{nth}-moved")))?;
        fs::remove_file(dir.join(format!("{nth}-moved")))
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|nth| scope.spawn(move || work(nth))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    });
}

#[test]
fn a_mount_that_can_have_no_more_threads_works_and_ends() {
    for engine in ENGINES {
        let pids = Pids::new(&format!("full-{engine}"));
        let served = Served::new(&["--io-engine", engine, "--cache", "metadata"]);
        pids.take(served.mount.pid());
        pids.close();
        works(served.mounted());
        served.stop();
    }
}
