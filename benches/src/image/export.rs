//! What is measured: a server of an image, a loop device on it, the image's file itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::images;
use super::rows::{Kind, Plan};
use crate::backing::Scratch;
use crate::client;
use crate::server::ServerCommand;
use crate::subject::Running;
use crate::undo::Undo;

const LIMIT: Duration = Duration::from_secs(10);

/// A way to the content of an image as one raw file.
pub(crate) struct Export {
    pub(crate) name: String,
    way: Way,
}

enum Way {
    Native,
    Loop,
    Server {
        command: ServerCommand,
        /// Words to add where the host's page cache is not to be used.
        direct_words: Vec<String>,
    },
}

impl Export {
    pub(crate) fn native() -> Self {
        Export { name: "native".into(), way: Way::Native }
    }

    pub(crate) fn loop_device() -> Self {
        Export { name: "loop".into(), way: Way::Loop }
    }

    /// A server whose command has `{image}`, `{format}` and `{mnt}`, and `{direct}` (on or off) or words to add.
    pub(crate) fn server(name: &str, command: &str, direct_words: &str) -> Result<Self> {
        let command = ServerCommand::new(name, command, &["{image}", "{format}", "{mnt}"])?;
        let direct_words = direct_words.split_whitespace().map(str::to_owned).collect();
        Ok(Export { name: name.into(), way: Way::Server { command, direct_words } })
    }

    pub(super) fn describe(&self) -> Option<String> {
        match &self.way {
            Way::Native | Way::Loop => None,
            Way::Server { command, direct_words } if direct_words.is_empty() => {
                Some(command.describe())
            }
            Way::Server { command, direct_words } => {
                Some(format!("{} [{}]", command.describe(), direct_words.join(" ")))
            }
        }
    }

    /// Whether it does the row, and does what the servers do.
    pub(super) fn takes_part(&self, plan: &Plan) -> bool {
        match self.way {
            // Past the host's page cache, so only where the servers are told the same.
            Way::Native => plan.kind == Kind::RawDirect,
            Way::Loop => plan.kind == Kind::Raw,
            Way::Server { .. } => true,
        }
    }

    /// Serves an image. The answer is ready for clients.
    pub(super) fn start(&self, image: &Path, kind: Kind, scratch: &Scratch) -> Result<Running> {
        match &self.way {
            Way::Native => Ok(Running::native(image)),
            Way::Loop => attach(image),
            Way::Server { command, direct_words } => {
                let direct = kind == Kind::RawDirect;
                let mountpoint = images::mount_point(&scratch.dir("mnt")?)?;
                let mut words = command.fill(&[
                    ("{image}", &image.to_string_lossy()),
                    ("{format}", kind.format()),
                    ("{mnt}", &mountpoint.to_string_lossy()),
                    ("{direct}", if direct { "on" } else { "off" }),
                ]);
                if direct {
                    words.extend_from_slice(direct_words);
                }
                Running::start(&self.name, &words, mountpoint, scratch)
            }
        }
    }
}

/// A loop device through the host's page cache.
fn attach(image: &Path) -> Result<Running> {
    let mut command = Command::new("losetup");
    command.args(["--find", "--show"]).arg(image);
    let output = client::run(&mut command, None, LIMIT).context("cannot make a loop device")?;
    let device = PathBuf::from(output.trim());
    let undo = Undo::new({
        let device = device.clone();
        move || {
            if Command::new("losetup").arg("--detach").arg(&device).status().is_err() {
                eprintln!("cannot detach {}", device.display());
            }
        }
    });
    Ok(Running::device(device, undo))
}
