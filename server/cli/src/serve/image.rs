//! A disk image as what is served.

use std::{ffi::CString, os::unix::ffi::OsStrExt, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use fsrv::{Name, NameBuf};
use fsrv_blockimage::{BlockImage, Config, Disk, Format, Options, Owner, Place};
use rustix::process::{configure_io_flusher_behavior, getegid, geteuid};
use tokio::time::timeout;

use crate::args::{HostCache, ImageFormat, Serve};

/// How long the last flush may wait for requests that were abandoned.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);

/// An image, open, with all that it refers to.
pub(super) struct Image {
    disk: Arc<Disk>,
    config: Config,
}

impl Image {
    /// # Errors
    /// When it cannot be opened, or is in use.
    pub(super) async fn open(args: &Serve, path: &Path, allow_other: bool) -> Result<Self> {
        let options = Options {
            path: path.to_owned(),
            format: args.format.map(|format| match format {
                ImageFormat::Raw => Format::Raw,
                ImageFormat::Qcow2 => Format::Qcow2,
            }),
            writable: args.writable,
            direct: args.host_cache == HostCache::Direct,
            allow_backing: args.allow_backing.clone(),
        };
        let disk = Arc::new(Disk::open(&options).await?);
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let config = Config {
            place: place(args, path)?,
            growable: args.growable,
            allow_other,
            owner: Owner::new(uid, gid, args.writable),
        };
        Ok(Self { disk, config })
    }

    /// The file as a client sees it that knows nothing of it yet.
    pub(super) fn filesystem(&self) -> BlockImage {
        BlockImage::new(self.disk.clone(), self.config.clone())
    }

    /// How it is served, for the start line.
    pub(super) fn manner(&self, args: &Serve) -> String {
        let access = match (args.writable, args.growable) {
            (false, _) => "read-only",
            (true, false) => "writable",
            (true, true) => "growable",
        };
        let cache = match args.host_cache {
            HostCache::Buffered => "",
            HostCache::Direct => ", past the host's cache",
        };
        format!("{}, {access}{cache}", self.disk.format())
    }

    /// Makes what was written durable, when nobody writes any more.
    ///
    /// # Errors
    /// What the host said.
    pub(super) async fn close(&self) -> Result<()> {
        match timeout(CLOSE_LIMIT, self.disk.flush()).await {
            Ok(flushed) => {
                flushed.context("what was written last may be lost: cannot flush the image")
            }
            Err(_) => {
                bail!("what was written last may be lost: a request of the image does not end")
            }
        }
    }
}

/// Says that this process writes for others who need memory: what it allocates must not wait for them. Its threads
/// inherit that. The kernel grants it to CAP_SYS_RESOURCE only, and without it a loop device over the file can stall
/// when memory is short; nothing else changes.
pub(super) fn prepare_process() {
    if let Err(error) = configure_io_flusher_behavior(true) {
        tracing::debug!(
            "the kernel does not take this process for one that writes back memory: {error}"
        );
    }
}

fn place(args: &Serve, path: &Path) -> Result<Place> {
    if args.fuse.is_some() {
        return Ok(Place::Root);
    }
    Ok(Place::InDirectory(match &args.name {
        Some(name) => name.clone(),
        None => Box::new(own_name(path).context("cannot name the file; give it a name by --name")?),
    }))
}

fn own_name(path: &Path) -> Result<NameBuf> {
    let name = path.file_name().context("the path of the image ends in no name")?;
    let name = CString::new(name.as_bytes())?;
    Ok(Name::new(&name)?.to_buf())
}
