//! Runs a load as a process of its own, so that a mount that hangs ends one row, not the run.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::undo::Undo;

/// Runs `command` to its end and returns what it printed. After `limit` it is killed, and `server` too: a client whose
/// request a server holds cannot be killed alone.
pub(crate) fn run(
    command: &mut Command,
    server: Option<&Arc<OwnedFd>>,
    limit: Duration,
) -> Result<String> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let client = Arc::new(pidfd(&child)?);
    let _undo = Undo::new({
        let client = Arc::clone(&client);
        move || kill(&client)
    });

    let (ended, watch) = mpsc::channel::<()>();
    let server = server.cloned();
    let watchdog = thread::spawn(move || {
        let late = watch.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        if late {
            kill(&client);
            server.iter().for_each(|server| kill(server));
        }
        late
    });
    let output = child.wait_with_output()?;
    drop(ended);

    let late = watchdog.join().unwrap_or(false);
    ensure!(!late, "not done after {} s", limit.as_secs());
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", output.status, errors.trim().replace('\n', "; "));
    Ok(String::from_utf8(output.stdout)?)
}

/// A name for a process that is never reused for another.
pub(crate) fn pidfd(child: &Child) -> Result<OwnedFd> {
    let pid = Pid::from_child(child);
    pidfd_open(pid, PidfdFlags::empty()).context("cannot watch a process")
}

/// Does nothing when the process has ended.
pub(crate) fn kill(process: &OwnedFd) {
    let _ = pidfd_send_signal(process, Signal::KILL);
}
