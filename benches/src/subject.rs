//! What is measured: the native directory, or a server that serves it on a mount point.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{UnmountFlags, unmount};

use crate::backing::Scratch;
use crate::client;
use crate::process;
use crate::server::ServerCommand;
use crate::undo::Undo;

const START_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Subject {
    pub(crate) name: String,
    /// None is what is served itself.
    command: Option<ServerCommand>,
    /// Words to add where inodes must be held by file handle, not by descriptor.
    handle_words: Vec<String>,
}

impl Subject {
    pub(crate) fn native() -> Self {
        Subject { name: "native".into(), command: None, handle_words: Vec::new() }
    }

    /// A server of a directory: its command has `{dir}` and `{mnt}`.
    pub(crate) fn server(name: &str, command: &str, handle_words: &str) -> Result<Self> {
        Ok(Subject {
            name: name.into(),
            command: Some(ServerCommand::new(name, command, &["{dir}", "{mnt}"])?),
            handle_words: handle_words.split_whitespace().map(str::to_owned).collect(),
        })
    }

    pub(crate) fn is_native(&self) -> bool {
        self.command.is_none()
    }

    pub(crate) fn describe(&self) -> Option<String> {
        self.command.as_ref().map(ServerCommand::describe)
    }

    /// Serves `dir`. The answer is ready for clients.
    pub(crate) fn start(&self, dir: &Path, scratch: &Scratch, inodes: Inodes) -> Result<Running> {
        let Some(command) = &self.command else {
            return Ok(Running::native(dir));
        };
        let mountpoint = scratch.dir("mnt")?;
        let places = [("{dir}", &*dir.to_string_lossy()), ("{mnt}", &mountpoint.to_string_lossy())];
        let mut words = command.fill(&places);
        if inodes == Inodes::Handles {
            words.extend_from_slice(&self.handle_words);
        }
        Running::start(&self.name, &words, mountpoint, scratch)
    }
}

/// How a server refers to the inodes that clients know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inodes {
    Default,
    Handles,
}

/// A started subject. Dropping it detaches the mount and ends the server.
pub(crate) struct Running {
    /// Where clients find the served directory.
    pub(crate) root: PathBuf,
    pub(crate) pid: Option<u32>,
    pub(crate) pidfd: Option<Arc<OwnedFd>>,
    _undo: Option<Undo>,
}

impl Running {
    /// What is served, without a server.
    pub(crate) fn native(root: &Path) -> Self {
        Running { root: root.to_owned(), pid: None, pidfd: None, _undo: None }
    }

    /// What the kernel serves; `undo` ends it.
    pub(crate) fn device(root: PathBuf, undo: Undo) -> Self {
        Running { root, pid: None, pidfd: None, _undo: Some(undo) }
    }

    /// Starts the server `name` and waits until it has mounted `root`.
    pub(crate) fn start(
        name: &str,
        words: &[String],
        root: PathBuf,
        scratch: &Scratch,
    ) -> Result<Self> {
        let log = scratch.dir("log")?.join("output");
        let child = process::start(words, &log).with_context(|| format!("cannot start {name}"))?;
        let running = Self::guard(root, child)?;
        running.wait_for_mount().with_context(|| {
            let output = process::printed(&log);
            format!("{name} did not mount and printed {output:?}")
        })?;
        Ok(running)
    }

    fn guard(root: PathBuf, child: Child) -> Result<Self> {
        let pid = child.id();
        let pidfd = Arc::new(client::pidfd(&child)?);
        let undo = Undo::new({
            let (root, pidfd) = (root.clone(), Arc::clone(&pidfd));
            move || {
                let _ = unmount(&root, UnmountFlags::DETACH);
                process::stop(child, &pidfd);
            }
        });
        Ok(Running { root, pid: Some(pid), pidfd: Some(pidfd), _undo: Some(undo) })
    }

    fn wait_for_mount(&self) -> Result<()> {
        let start = Instant::now();
        while !is_mounted(&self.root)? {
            ensure!(!self.pid.is_some_and(process::has_ended), "it ended");
            if start.elapsed() > START_LIMIT {
                bail!("not mounted after {} s", START_LIMIT.as_secs());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Looks at the list of mounts: a look at the mount point itself would wait for the server.
fn is_mounted(path: &Path) -> Result<bool> {
    let path = path.to_string_lossy();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(4) == Some(&path)))
}
