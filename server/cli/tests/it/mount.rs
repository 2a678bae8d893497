//! A served directory: a running `fsrv` and its mount. Both are gone when the value is dropped.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

/// How long a server may take to mount.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long a server may take to end after a signal: it waits 5 s for a busy mount, then detaches it.
const STOP_LIMIT: Duration = Duration::from_secs(8);

/// One server and its mount point.
#[derive(Debug)]
pub(crate) struct Mount {
    server: Child,
    mountpoint: PathBuf,
    log: File,
}

impl Mount {
    /// Serves `dir` at `mountpoint`, and returns when it is mounted.
    pub(crate) fn serve(fsrv: &Path, dir: &Path, mountpoint: &Path, args: &[&str]) -> Result<Self> {
        Self::start(mountpoint, |command, mountpoint| {
            command.arg(fsrv).args(["serve", "--fuse"]).arg(mountpoint);
            command.arg("--dir").arg(dir).args(args)
        })
    }

    /// Starts the server that `name` adds to a command, and returns when something is mounted at `mountpoint`.
    pub(crate) fn start(
        mountpoint: &Path,
        name: impl for<'a> FnOnce(&'a mut Command, &Path) -> &'a mut Command,
    ) -> Result<Self> {
        let mountpoint = fs::canonicalize(mountpoint)?;
        let log = tempfile::tempfile()?;
        // A test that is killed runs no destructors; its server then gets the signal from the kernel.
        let mut command = Command::new("setpriv");
        let server = name(command.args(["--pdeathsig", "TERM"]), &mountpoint)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .spawn()
            .context("cannot start setpriv")?;
        let mut mount = Self { server, mountpoint, log };
        mount.wait_until_mounted()?;
        Ok(mount)
    }

    fn wait_until_mounted(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !is_mounted(&self.mountpoint)? {
            if let Some(status) = self.server.try_wait()? {
                bail!("the server ended with {status} before it mounted: {}", self.log()?);
            }
            if Instant::now() >= deadline {
                bail!("not mounted after {START_LIMIT:?}: {}", self.log()?);
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Stops the server as an operator does. It must exit with 0 and leave no mount.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.ended()
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> u32 {
        self.server.id()
    }

    /// Sends the server a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.server), signal)?)
    }

    /// Gives the running server at most `most` of something.
    pub(crate) fn limit(&self, what: Resource, most: u64) -> Result<()> {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        prlimit(Some(Pid::from_child(&self.server)), what, limit)?;
        Ok(())
    }

    /// Waits for the server's end. It must be a good one: exit code 0, nothing mounted.
    pub(crate) fn ended(&mut self) -> Result<()> {
        let Some(status) = wait(&mut self.server, STOP_LIMIT)? else {
            bail!("the server still runs after {STOP_LIMIT:?}: {}", self.log()?);
        };
        if !status.success() {
            bail!("the server ended with {status}: {}", self.log()?);
        }
        if is_mounted(&self.mountpoint)? {
            bail!("the server ended and left {} mounted", self.mountpoint.display());
        }
        Ok(())
    }

    /// Kills the server, and leaves what it mounted: dead.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.server.kill()?;
        self.server.wait()?;
        Ok(())
    }

    /// What the server has printed so far.
    pub(crate) fn log(&self) -> Result<String> {
        let mut bytes = vec![0; self.log.metadata()?.len() as usize];
        self.log.read_exact_at(&mut bytes, 0)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Each step may find its work done already; a destructor has nobody to tell.
        let _ = self.server.kill();
        let _ = self.server.wait();
        while is_mounted(&self.mountpoint).unwrap_or(false) {
            if unmount(&self.mountpoint, UnmountFlags::DETACH).is_err() {
                break;
            }
        }
    }
}

/// Waits for `child` to end, at most for `limit`.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        sleep(Duration::from_millis(5));
    }
}

/// Whether something is mounted at `path`, asked without touching it: a dead mount answers no stat.
pub(crate) fn is_mounted(path: &Path) -> Result<bool> {
    let mounts = fs::read("/proc/self/mountinfo")?;
    let point = |line: &[u8]| line.split(|&byte| byte == b' ').nth(4).map(<[u8]>::to_vec);
    Ok(mounts.split(|&byte| byte == b'\n').filter_map(point).any(|point| point == as_listed(path)))
}

/// A path as the list of mounts has it.
fn as_listed(path: &Path) -> Vec<u8> {
    let mut listed = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => listed.extend(format!("\\{byte:03o}").bytes()),
            _ => listed.push(byte),
        }
    }
    listed
}
