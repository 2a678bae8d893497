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
use crate::undo::Undo;

const START_LIMIT: Duration = Duration::from_secs(10);
/// A server ends by itself when its mount is gone; after this long it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(3);

pub(crate) struct Subject {
    pub(crate) name: String,
    /// The server's command, a word each, with `{dir}` and `{mnt}`. None is the native directory.
    command: Option<Vec<String>>,
    /// Words to add where inodes must be held by file handle, not by descriptor.
    handle_words: Vec<String>,
}

impl Subject {
    pub(crate) fn native() -> Self {
        Subject { name: "native".into(), command: None, handle_words: Vec::new() }
    }

    pub(crate) fn server(name: &str, command: &str, handle_words: &str) -> Result<Self> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        ensure!(
            command.contains("{dir}") && command.contains("{mnt}"),
            "the command of {name} must hold {{dir}} and {{mnt}}: {command}"
        );
        Ok(Subject {
            name: name.into(),
            command: Some(words(command)),
            handle_words: words(handle_words),
        })
    }

    /// Of the form `name=command with {dir} {mnt}`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (name, command) =
            text.split_once('=').context("a peer is name=command with {dir} {mnt}")?;
        Self::server(name, command, "")
    }

    pub(crate) fn is_native(&self) -> bool {
        self.command.is_none()
    }

    /// The command as it goes below the table: without the place of the program.
    pub(crate) fn describe(&self) -> Option<String> {
        let mut words = self.command.clone()?;
        if let Some(name) = Path::new(&words[0]).file_name() {
            words[0] = name.to_string_lossy().into_owned();
        }
        Some(words.join(" "))
    }

    /// Serves `dir`. The answer is ready for clients.
    pub(crate) fn start(&self, dir: &Path, scratch: &Scratch, inodes: Inodes) -> Result<Running> {
        let Some(words) = &self.command else {
            return Ok(Running { root: dir.to_owned(), pid: None, pidfd: None, _undo: None });
        };
        let mountpoint = scratch.dir("mnt")?;
        let log = scratch.dir("log")?.join("output");
        let handle_words =
            if inodes == Inodes::Handles { self.handle_words.as_slice() } else { &[] };
        let words: Vec<String> = words
            .iter()
            .chain(handle_words)
            .map(|word| {
                word.replace("{dir}", &dir.to_string_lossy())
                    .replace("{mnt}", &mountpoint.to_string_lossy())
            })
            .collect();
        let child =
            process::start(&words, &log).with_context(|| format!("cannot start {}", self.name))?;

        let running = Running::guard(mountpoint, child)?;
        running.wait_for_mount().with_context(|| {
            let output = process::printed(&log);
            format!("{} did not mount and printed {output:?}", self.name)
        })?;
        Ok(running)
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
    fn guard(root: PathBuf, child: Child) -> Result<Self> {
        let pid = child.id();
        let pidfd = Arc::new(client::pidfd(&child)?);
        let undo = Undo::new({
            let root = root.clone();
            move || stop(&root, child)
        });
        Ok(Running { root, pid: Some(pid), pidfd: Some(pidfd), _undo: Some(undo) })
    }

    fn wait_for_mount(&self) -> Result<()> {
        let start = Instant::now();
        while !is_mounted(&self.root)? {
            ensure!(!self.has_ended(), "it ended");
            if start.elapsed() > START_LIMIT {
                bail!("not mounted after {} s", START_LIMIT.as_secs());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// A process that ended but was not waited for is a zombie: it has no memory.
    fn has_ended(&self) -> bool {
        self.pid.is_some_and(|pid| {
            fs::read(format!("/proc/{pid}/statm")).is_ok_and(|statm| statm.starts_with(b"0 "))
        })
    }
}

/// Looks at the list of mounts: a look at the mount point itself would wait for the server.
fn is_mounted(path: &Path) -> Result<bool> {
    let path = path.to_string_lossy();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(4) == Some(&path)))
}

fn stop(mountpoint: &Path, mut child: Child) {
    let _ = unmount(mountpoint, UnmountFlags::DETACH);
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
