//! A server's process, and what /proc tells of it.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Signal, pidfd_send_signal};

/// A server that has not ended so long after it was asked to is killed.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// Starts a server in a process group of its own. What it prints goes to the file `log`.
pub(crate) fn start(words: &[String], log: &Path) -> Result<Child> {
    let output = File::create(log)?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    command.stdout(output.try_clone()?).stderr(output);
    Ok(command.process_group(0).spawn()?)
}

/// What a server has printed to `log`, in one line.
pub(crate) fn printed(log: &Path) -> String {
    fs::read_to_string(log).unwrap_or_default().trim().replace('\n', "; ")
}

/// A process that ended but was not waited for is a zombie: it has no memory.
pub(crate) fn has_ended(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/statm")).is_ok_and(|statm| statm.starts_with(b"0 "))
}

/// Ends a server and waits for it.
pub(crate) fn stop(mut child: Child, pidfd: &OwnedFd) {
    let _ = pidfd_send_signal(pidfd, Signal::TERM);
    let start = Instant::now();
    while start.elapsed() < STOP_LIMIT {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Processor time in seconds, of all threads of a process, the dead ones included. Its grain is a clock tick: take
/// differences over long work.
pub(crate) struct Times {
    /// In user space, estimated by the kernel from what each tick found running.
    pub(crate) user: f64,
    pub(crate) all: f64,
}

pub(crate) fn times(pid: u32) -> Result<Times> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the server is gone")?;
    // The second field is the program's name in brackets, and may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has no name")?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let (Some(Ok(user)), Some(Ok(system))) = (fields.next(), fields.next()) else {
        anyhow::bail!("/proc/PID/stat has no times");
    };
    let seconds = |ticks: u64| ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Ok(Times { user: seconds(user), all: seconds(user + system) })
}

/// All of [`times`].
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    Ok(times(pid)?.all)
}

/// Resident memory, in bytes.
pub(crate) fn rss(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the server is gone")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("/proc/PID/status has no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
