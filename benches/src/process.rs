//! A server's process, and what /proc tells of it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

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

/// Processor time that all threads of the process have used, the dead ones included, in seconds. Its grain is a clock
/// tick: take differences over long work.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the server is gone")?;
    // The second field is the program's name in brackets, and may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has no name")?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let (Some(Ok(user)), Some(Ok(system))) = (fields.next(), fields.next()) else {
        anyhow::bail!("/proc/PID/stat has no times");
    };
    Ok((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
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
