//! What is measured: a server of a vhost-user socket, and our connection to it.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fsrv_frontend::{Caller, Mount, MountOptions, Socket};
use rustix::process::{Signal, getegid, geteuid, pidfd_send_signal};

use crate::backing::Scratch;
use crate::client;
use crate::process;
use crate::undo::Undo;

const START_LIMIT: Duration = Duration::from_secs(10);
/// A server that does not end by itself when asked to is killed after this.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// A server to be started.
pub(crate) struct Server {
    pub(crate) name: String,
    /// A word each, with `{dir}` and `{socket}`.
    words: Vec<String>,
}

/// A started server and a mount of it. Dropping it ends both, the mount first.
pub(crate) struct Running {
    pub(crate) mount: Mount,
    pub(crate) pid: u32,
    _undo: Undo,
}

impl Server {
    pub(crate) fn new(name: &str, command: &str) -> Result<Self> {
        ensure!(
            command.contains("{dir}") && command.contains("{socket}"),
            "the command of {name} must hold {{dir}} and {{socket}}: {command}"
        );
        let words = command.split_whitespace().map(str::to_owned).collect();
        Ok(Server { name: name.into(), words })
    }

    /// The command as it goes below the table: without the place of the program.
    pub(crate) fn describe(&self) -> String {
        let mut words = self.words.clone();
        if let Some(name) = Path::new(&words[0]).file_name() {
            words[0] = name.to_string_lossy().into_owned();
        }
        words.join(" ")
    }

    /// Serves `dir` and mounts it.
    pub(crate) fn start(
        &self,
        dir: &Path,
        scratch: &Scratch,
        options: &MountOptions,
    ) -> Result<Running> {
        let place = scratch.dir("socket")?;
        let (socket, log) = (place.join("socket"), place.join("output"));
        let words: Vec<String> = self
            .words
            .iter()
            .map(|word| {
                word.replace("{dir}", &dir.to_string_lossy())
                    .replace("{socket}", &socket.to_string_lossy())
            })
            .collect();
        let child =
            process::start(&words, &log).with_context(|| format!("cannot start {}", self.name))?;
        let pid = child.id();
        let pidfd = Arc::new(client::pidfd(&child)?);
        let undo = Undo::new(move || stop(child, &pidfd));
        let mount = connect(&socket, pid, options).with_context(|| {
            let output = process::printed(&log);
            format!("{} cannot be mounted and printed {output:?}", self.name)
        })?;
        Ok(Running { mount, pid, _undo: undo })
    }
}

fn connect(socket: &Path, pid: u32, options: &MountOptions) -> Result<Mount> {
    let start = Instant::now();
    let socket = loop {
        match Socket::connect_within(socket, Duration::from_millis(100)) {
            Ok(socket) => break socket,
            Err(error) if start.elapsed() > START_LIMIT => return Err(error.into()),
            Err(_) => ensure!(!has_ended(pid), "it ended"),
        }
    };
    let mut mount = Mount::on_socket(socket, options)?;
    let caller =
        Caller { uid: geteuid().as_raw(), gid: getegid().as_raw(), pid: std::process::id() };
    mount.clients.iter_mut().for_each(|client| client.set_caller(caller));
    Ok(mount)
}

/// A process that ended but was not waited for is a zombie: it has no memory.
fn has_ended(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/statm")).is_ok_and(|statm| statm.starts_with(b"0 "))
}

fn stop(mut child: Child, pidfd: &std::os::fd::OwnedFd) {
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
