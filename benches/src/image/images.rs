//! The images that are served, made by qemu-img.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::rows::Kind;
use crate::backing;
use crate::client;

const LIMIT: Duration = Duration::from_secs(120);

pub(super) struct Images {
    dir: PathBuf,
    /// Of each image's content.
    mib: u64,
}

impl Images {
    /// Makes the raw image, full. The others are copies of it.
    pub(super) fn make(dir: PathBuf, mib: u64) -> Result<Self> {
        let images = Images { dir, mib };
        backing::write_file(&images.raw(), mib)?;
        Ok(images)
    }

    /// A full image, which stays.
    pub(super) fn full(&self, kind: Kind) -> Result<PathBuf> {
        let path = match kind {
            Kind::Raw | Kind::RawDirect => return Ok(self.raw()),
            Kind::Thin => self.create("thin", None)?,
            Kind::Full => self.create("full", Some("preallocation=metadata"))?,
        };
        let mut convert = qemu_img(["convert", "-n", "-f", "raw", "-O", "qcow2"]);
        run(convert.arg(self.raw()).arg(&path))?;
        rustix::fs::sync();
        Ok(path)
    }

    /// An empty qcow2 image, instead of the one before.
    pub(super) fn fresh(&self) -> Result<PathBuf> {
        let before = self.dir.join("fresh");
        if before.exists() {
            fs::remove_file(before)?;
            // Nothing is left to do for it while the next is measured.
            rustix::fs::sync();
        }
        self.create("fresh", None)
    }

    fn raw(&self) -> PathBuf {
        self.dir.join("raw")
    }

    fn create(&self, name: &str, options: Option<&str>) -> Result<PathBuf> {
        let path = self.dir.join(name);
        let mut create = qemu_img(["create", "-q", "-f", "qcow2"]);
        if let Some(options) = options {
            create.args(["-o", options]);
        }
        run(create.arg(&path).arg(format!("{}M", self.mib)))?;
        Ok(path)
    }
}

/// Where an image is to be served: on an empty file.
pub(super) fn mount_point(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("file");
    fs::write(&path, "")?;
    Ok(path)
}

fn qemu_img<const N: usize>(words: [&str; N]) -> Command {
    let mut command = Command::new("qemu-img");
    command.args(words);
    command
}

fn run(command: &mut Command) -> Result<()> {
    client::run(command, None, LIMIT).map(drop).context("qemu-img cannot make an image")
}
