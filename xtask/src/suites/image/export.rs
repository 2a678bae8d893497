//! A served image.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;

use super::kinds::Made;
use crate::lab::Lab;
use crate::mount::Mount;

/// The fields are dropped in this order.
pub(super) struct Export {
    mount: Mount,
    file: PathBuf,
    _place: TempDir,
}

impl Export {
    pub(super) fn of(lab: &Lab, image: &Made, args: &[&str]) -> Result<Self> {
        let place = lab.directory()?;
        let file = place.path().join("disk");
        std::fs::write(&file, "")?;
        let fsrv = lab.fsrv()?;
        let mount = Mount::start(&file, |command, file| {
            command.arg(fsrv).args(["serve", "--fuse"]).arg(file);
            command.arg("--image").arg(&image.path).args(["--format", image.format]).args(args);
            if image.format == "qcow2" {
                command.arg("--allow-backing").arg(image.directory());
            }
            command
        })?;
        Ok(Self { mount, file, _place: place })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn log(&self) -> Result<String> {
        self.mount.log()
    }

    /// Unmounts; the server must agree that all went well.
    pub(super) fn stop(self) -> Result<()> {
        self.mount.stop()
    }
}
