//! The directories that are served: on a disk, on tmpfs, on a fresh ext4 image.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

use crate::client;
use crate::undo::Undo;

/// Large enough for the small files of a row, small enough to make in less than a second.
const IMAGE_BYTES: u64 = 1 << 30;

/// A directory of this run's own. It goes when the run ends.
pub(crate) struct Scratch {
    path: PathBuf,
    next: AtomicU32,
    _undo: Undo,
}

impl Scratch {
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        let dir = TempDir::with_prefix_in("fsrv-benches-", parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let path = dir.keep();
        let undo = Undo::new({
            let path = path.clone();
            // A mount that could not be removed must not be emptied.
            move || remove_tree_on_one_filesystem(&path)
        });
        Ok(Scratch { path, next: AtomicU32::new(0), _undo: undo })
    }

    /// A new empty directory, named for what it holds.
    pub(crate) fn dir(&self, what: &str) -> Result<PathBuf> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{what}-{number}"));
        fs::create_dir(&path)?;
        Ok(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A filesystem made for this run, mounted at `path`.
pub(crate) struct Mount {
    pub(crate) path: PathBuf,
    _undo: Undo,
    /// Of an image: the tmpfs on which the image lies.
    _below: Option<Box<Mount>>,
}

impl Mount {
    pub(crate) fn tmpfs(scratch: &Scratch) -> Result<Self> {
        let path = scratch.dir("tmpfs")?;
        // A million files are more than tmpfs grants on a small machine.
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), Some(c"nr_inodes=0,size=90%"))
            .context("cannot mount a tmpfs")?;
        Ok(Mount { _undo: detach_on_exit(&path), path, _below: None })
    }

    /// The image lies on tmpfs: what is measured is ext4 and not the disk below it.
    pub(crate) fn ext4(scratch: &Scratch) -> Result<Self> {
        let below = Self::tmpfs(scratch)?;
        let image = below.path.join("image");
        File::create(&image)?.set_len(IMAGE_BYTES)?;
        // Nothing is left for a kernel thread to initialize while a row is measured.
        let mkfs = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        run(Command::new("mkfs.ext4").args(mkfs).arg(&image))?;
        let path = scratch.dir("ext4")?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path))?;
        Ok(Mount { _undo: detach_on_exit(&path), path, _below: Some(Box::new(below)) })
    }
}

/// Writes a file of `mib` MiB, natively and to the disk, so that no row pays for its allocation.
pub(crate) fn write_file(path: &Path, mib: u64) -> Result<()> {
    let block: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
    let mut file = File::create(path)?;
    for _ in 0..mib {
        file.write_all(&block)?;
    }
    file.sync_all().with_context(|| format!("cannot write {mib} MiB for the rows to use"))
}

fn detach_on_exit(path: &Path) -> Undo {
    let path = path.to_owned();
    Undo::new(move || {
        let _ = unmount(&path, UnmountFlags::DETACH);
    })
}

fn run(command: &mut Command) -> Result<()> {
    client::run(command, None, Duration::from_secs(60)).map(drop)
}

fn remove_tree_on_one_filesystem(path: &Path) {
    let _ = Command::new("rm").args(["-r", "-f", "--one-file-system", "--"]).arg(path).status();
}
