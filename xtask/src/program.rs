//! Outside programs: run without a terminal and within a time limit.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// What a program left.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Lines of a failed program's output that are worth repeating.
const QUOTED_LINES: usize = 30;

/// Runs `command` on our own terminal; it must succeed.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| start_error(command))?;
    if !status.success() {
        bail!("{} ended with {status}", line(command));
    }
    Ok(())
}

/// Runs `command` silently and returns what it printed; it must succeed within `limit`.
pub(crate) fn check(command: &mut Command, limit: Duration) -> Result<String> {
    let finished = run(command, limit)?;
    if !finished.status.success() {
        bail!("{} ended with {}\n{}", line(command), finished.status, finished.quote());
    }
    Ok(finished.stdout)
}

/// Runs `command` silently, in a process group of its own, and kills that group after `limit`.
///
/// A program that waits for a server which does not answer cannot be killed, so it is not waited for either:
/// the caller takes the mount away next.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .process_group(0);
    let mut child = command.spawn().with_context(|| start_error(command))?;

    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            let group = Pid::from_child(&child);
            kill_process_group(group, Signal::KILL)?;
            bail!("{} did not end within {limit:?}\n{}", line(command), tail(&text(&mut stderr)?));
        }
        sleep(Duration::from_millis(5));
    };
    Ok(Finished { status, stdout: text(&mut stdout)?, stderr: text(&mut stderr)? })
}

impl Finished {
    /// The end of what the program said, errors last.
    pub(crate) fn quote(&self) -> String {
        tail(&format!("{}{}", self.stdout, self.stderr))
    }
}

fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n")
}

fn start_error(command: &Command) -> String {
    format!("cannot start {}", line(command))
}

fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        // Writing to a string does not fail.
        let _ = write!(line, " {}", arg.to_string_lossy());
    }
    line
}
