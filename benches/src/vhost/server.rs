//! What is measured: a server of a vhost-user socket, and our connection to it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fsrv_frontend::{Caller, Mount, MountOptions, Socket};
use rustix::process::{getegid, geteuid};

use crate::backing::Scratch;
use crate::client;
use crate::process;
use crate::server::ServerCommand;
use crate::undo::Undo;

const START_LIMIT: Duration = Duration::from_secs(10);

/// A server to be started.
pub(crate) struct Server {
    pub(crate) name: String,
    /// With `{dir}` and `{socket}`.
    command: ServerCommand,
}

/// A started server and a mount of it. Dropping it ends both, the mount first.
pub(crate) struct Running {
    pub(crate) mount: Mount,
    pub(crate) pid: u32,
    _undo: Undo,
}

impl Server {
    pub(crate) fn new(name: &str, command: &str) -> Result<Self> {
        let command = ServerCommand::new(name, command, &["{dir}", "{socket}"])?;
        Ok(Server { name: name.into(), command })
    }

    pub(crate) fn describe(&self) -> String {
        self.command.describe()
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
        let words = self
            .command
            .fill(&[("{dir}", &dir.to_string_lossy()), ("{socket}", &socket.to_string_lossy())]);
        let child =
            process::start(&words, &log).with_context(|| format!("cannot start {}", self.name))?;
        let pid = child.id();
        let pidfd = Arc::new(client::pidfd(&child)?);
        let undo = Undo::new(move || process::stop(child, &pidfd));
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
            Err(_) => ensure!(!process::has_ended(pid), "it ended"),
        }
    };
    let mut mount = Mount::on_socket(socket, options)?;
    let caller =
        Caller { uid: geteuid().as_raw(), gid: getegid().as_raw(), pid: std::process::id() };
    mount.clients.iter_mut().for_each(|client| client.set_caller(caller));
    Ok(mount)
}
