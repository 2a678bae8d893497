//! A process that serves a directory to a guest.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::lab::Lab;
use crate::mount::wait;
use crate::setup;

const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What a listening socket has among its flags in /proc/net/unix.
const LISTENS: &str = "00010000";

/// Whose work the guest sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Daemon {
    #[default]
    Fsrv,
    /// For comparison, by hand. It forgets no guest and keeps no lock: some tests fail.
    Virtiofsd,
}

/// A running server. It is gone when the value is dropped.
pub(crate) struct Server {
    daemon: Daemon,
    process: Child,
    log: File,
    place: TempDir,
}

impl Server {
    /// Serves `dir`, and returns when the socket takes connections.
    pub(crate) fn start(lab: &Lab, dir: &Path, args: &[&str]) -> Result<Self> {
        let place = tempfile::tempdir()?;
        let command = command(lab, &place.path().join("socket"), dir)?;
        Self::spawn(lab.daemon, command, place, args)
    }

    /// Serves the image at `path`; virtiofsd knows none.
    pub(crate) fn of_image(lab: &Lab, path: &Path, args: &[&str]) -> Result<Self> {
        let place = tempfile::tempdir()?;
        let mut command = fsrv(lab, &place.path().join("socket"))?;
        command.arg("--image").arg(path);
        Self::spawn(Daemon::Fsrv, command, place, args)
    }

    fn spawn(daemon: Daemon, mut command: Command, place: TempDir, args: &[&str]) -> Result<Self> {
        let log = tempfile::tempfile()?;
        let process = command
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .spawn()
            .context("cannot start setpriv")?;
        let mut server = Self { daemon, process, log, place };
        server.wait_until_it_listens()?;
        Ok(server)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.place.path().join("socket")
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !listens(&self.socket())? {
            if let Some(status) = self.process.try_wait()? {
                bail!("the server ended with {status} before it listened: {}", self.log());
            }
            if Instant::now() >= deadline {
                bail!("no socket after {START_LIMIT:?}: {}", self.log());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Stops the server as an operator does. It must still run, and exit with 0.
    pub(crate) fn stop(mut self) -> Result<()> {
        if self.daemon == Daemon::Virtiofsd {
            return Ok(());
        }
        if let Some(status) = self.process.try_wait()? {
            bail!("the server had already ended with {status}: {}", self.log());
        }
        kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        match wait(&mut self.process, STOP_LIMIT)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("the server ended with {status}: {}", self.log()),
            None => bail!("the server still runs after {STOP_LIMIT:?}: {}", self.log()),
        }
    }

    /// What the server has printed so far.
    pub(crate) fn log(&self) -> String {
        let mut bytes = vec![0; self.log.metadata().map_or(0, |meta| meta.len() as usize)];
        match self.log.read_exact_at(&mut bytes, 0) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("its log cannot be read: {error}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; a destructor has nobody to tell.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(lab: &Lab, socket: &Path, dir: &Path) -> Result<Command> {
    if lab.daemon == Daemon::Fsrv {
        let mut command = fsrv(lab, socket)?;
        command.arg("--dir").arg(dir);
        return Ok(command);
    }
    let mut command = mortal();
    command.arg(setup::find("virtiofsd").context("virtiofsd is not installed")?);
    command.arg("--socket-path").arg(socket).arg("--shared-dir").arg(dir);
    command.args(["--xattr", "--posix-acl", "--inode-file-handles=prefer"]);
    Ok(command)
}

fn fsrv(lab: &Lab, socket: &Path) -> Result<Command> {
    let mut command = mortal();
    command.arg(lab.fsrv()?).args(["serve", "--vhost-user"]).arg(socket);
    Ok(command)
}

/// A suite that is killed runs no destructors; its server then gets the signal from the kernel.
fn mortal() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    command
}

/// Whether somebody listens at `socket`, asked without connecting: that would be a guest.
fn listens(socket: &Path) -> Result<bool> {
    let sockets = fs::read_to_string("/proc/net/unix")?;
    Ok(sockets.lines().any(|line| {
        let mut words = line.split_whitespace().skip(3);
        words.next() == Some(LISTENS) && words.nth(3).map(Path::new) == Some(socket)
    }))
}
