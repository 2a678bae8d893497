//! strace, which counts the system calls of a server that runs.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, pidfd_send_signal};

use crate::client;

/// To attach to all threads, and to print the counts.
const LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Trace {
    strace: Child,
    pidfd: OwnedFd,
    counts: PathBuf,
}

impl Trace {
    /// Traces all threads of `pid`, and those that they start.
    pub(super) fn start(pid: u32, dir: &Path) -> Result<Self> {
        let counts = dir.join("counts");
        let strace = Command::new("strace")
            .args(["-f", "-c", "-p", &pid.to_string(), "-o"])
            .arg(&counts)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run strace")?;
        let pidfd = client::pidfd(&strace)?;
        let trace = Self { strace, pidfd, counts };
        wait_for("strace did not attach", || is_traced(pid))?;
        Ok(trace)
    }

    /// Ends it. Returns how many calls there were that did something.
    pub(super) fn finish(mut self) -> Result<u64> {
        pidfd_send_signal(&self.pidfd, Signal::INT)?;
        wait_for("strace did not end", || Ok(self.strace.try_wait()?.is_some()))?;
        effective(&fs::read_to_string(&self.counts)?).context("strace counted nothing")
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        client::kill(&self.pidfd);
        let _ = self.strace.wait();
    }
}

/// Whether each thread has a tracer.
fn is_traced(pid: u32) -> Result<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        if status.lines().any(|line| line == "TracerPid:\t0") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Calls that wait, and that wake who waits: how many there are depends on how fast the client is, and a traced server is
/// slow.
const WAITS: [&str; 6] =
    ["epoll_wait", "epoll_pwait", "epoll_pwait2", "futex", "io_uring_enter", "write"];

/// The calls that did something, of lines such as `15.75    0.008637           2      3032        28 read`.
fn effective(counts: &str) -> Option<u64> {
    let calls = counts.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (&name, calls) = (words.last()?, words.get(3)?.parse::<u64>().ok()?);
        if name == "total" || WAITS.contains(&name) {
            return None;
        }
        // A read that failed found nothing to do.
        let failed = words.get(4).filter(|_| name == "read").and_then(|word| word.parse().ok());
        Some(calls - failed.unwrap_or(0))
    });
    calls.reduce(|sum, calls| sum + calls)
}

fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        ensure!(start.elapsed() < LIMIT, "{what} in {} s", LIMIT.as_secs());
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_wait_and_reads_of_nothing_do_not_count() {
        let counts = "% time     seconds  usecs/call     calls    errors syscall\n\
            22.32    0.012241           4      3004           writev\n\
            15.98    0.008762         194        45         1 futex\n\
            15.75    0.008637           2      3032        28 read\n\
            100.00    0.02               4      6081        29 total\n";
        assert_eq!(effective(counts), Some(6008));
        assert_eq!(effective(""), None);
    }
}
