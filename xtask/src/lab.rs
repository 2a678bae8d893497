//! Where suites run: one place on the disk, a native directory there as the yardstick, and served ones.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::guest::Daemon;
use crate::mount::Mount;
use crate::program;

/// On a disk, unlike /tmp on many machines, and reachable for the users that tests become.
const SCRATCH: &str = "/var/tmp";

/// The server under test and a directory which goes when this is dropped.
pub(crate) struct Lab {
    fsrv: Option<PathBuf>,
    pub(crate) full: bool,
    /// What serves virtual machines.
    pub(crate) daemon: Daemon,
    place: TempDir,
}

/// How the server is started.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    pub(crate) args: Vec<&'static str>,
}

/// A directory, seen through a mount. The fields are dropped in this order.
pub(crate) struct Served {
    pub(crate) mount: Mount,
    mountpoint: TempDir,
    pub(crate) dir: Rc<TempDir>,
}

impl Lab {
    pub(crate) fn open(full: bool, daemon: Daemon) -> Result<Self> {
        Ok(Self { fsrv: None, full, daemon, place: scratch()? })
    }

    /// Builds the server as users run it, unless `ready` names one.
    pub(crate) fn build(&mut self, ready: Option<&Path>) -> Result<()> {
        let fsrv = match ready {
            Some(fsrv) => fs::canonicalize(fsrv)
                .with_context(|| format!("no server at {}", fsrv.display()))?,
            None => build()?,
        };
        self.fsrv = Some(fsrv);
        Ok(())
    }

    /// The server under test.
    pub(crate) fn fsrv(&self) -> Result<&Path> {
        self.fsrv.as_deref().context("there is no server to test")
    }

    /// Both engines with both inode modes; with `--full` every cache mode as well.
    pub(crate) fn variants(&self) -> Vec<Variant> {
        if self.full { matrix(&["auto", "metadata", "always", "never"]) } else { matrix(&["auto"]) }
    }

    /// The same, and the other ways in which data may be cached.
    pub(crate) fn data_variants(&self) -> Vec<Variant> {
        let corner = |cache| Variant::new("uring", "prefer", cache);
        let mut variants = self.variants();
        if !self.full {
            variants.extend([corner("never"), corner("always")]);
        }
        variants.push(corner("auto").with("--writeback"));
        variants.push(corner("auto").with("--allow-direct-io"));
        variants.push(Variant::new("threads", "never", "auto").with("--allow-direct-io"));
        variants
    }

    /// A new directory, open to every user.
    pub(crate) fn directory(&self) -> Result<TempDir> {
        open_directory(self.place.path())
    }

    /// Serves a new directory.
    pub(crate) fn serve(&self, variant: &Variant) -> Result<Served> {
        self.serve_dir(Rc::new(self.directory()?), variant)
    }

    /// Serves a directory which may have other mounts.
    pub(crate) fn serve_dir(&self, dir: Rc<TempDir>, variant: &Variant) -> Result<Served> {
        let mountpoint = self.directory()?;
        let mount = Mount::serve(self.fsrv()?, dir.path(), mountpoint.path(), &variant.args)?;
        Ok(Served { mount, mountpoint, dir })
    }
}

impl Variant {
    pub(crate) fn new(
        engine: &'static str,
        file_handles: &'static str,
        cache: &'static str,
    ) -> Self {
        let args = ["--io-engine", engine, "--inode-file-handles", file_handles, "--cache", cache];
        Self { args: args.to_vec() }
    }

    /// The same, with one more option.
    fn with(mut self, option: &'static str) -> Self {
        self.args.push(option);
        self
    }

    /// `uring prefer auto`, as suites print it.
    pub(crate) fn name(&self) -> String {
        let tells = |arg: &&str| !["--io-engine", "--inode-file-handles", "--cache"].contains(arg);
        let words: Vec<_> = self.args.iter().copied().filter(tells).collect();
        words.join(" ")
    }
}

impl Served {
    pub(crate) fn path(&self) -> &Path {
        self.mountpoint.path()
    }

    /// Unmounts; the server must agree that all went well.
    pub(crate) fn stop(self) -> Result<()> {
        self.mount.stop()
    }
}

/// A new directory for one run, open to every user.
pub(crate) fn scratch() -> Result<TempDir> {
    open_directory(Path::new(SCRATCH))
}

/// Both engines with both inode modes and every cache mode of `caches`.
pub(crate) fn matrix(caches: &[&'static str]) -> Vec<Variant> {
    let mut variants = Vec::new();
    for engine in ["uring", "threads"] {
        for file_handles in ["never", "prefer"] {
            variants.extend(caches.iter().map(|cache| Variant::new(engine, file_handles, cache)));
        }
    }
    variants
}

fn open_directory(parent: &Path) -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("fsrv-").tempdir_in(parent)?;
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
    Ok(dir)
}

fn build() -> Result<PathBuf> {
    program::show(Command::new("cargo").args(["build", "--release", "--package", "fsrv-cli"]))?;
    let xtask = std::env::current_exe()?;
    let target = xtask.ancestors().nth(2).context("xtask runs from outside a target directory")?;
    Ok(target.join("release/fsrv"))
}
