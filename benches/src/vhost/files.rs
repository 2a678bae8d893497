//! What the rows work on: made natively, opened through a mount.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fsrv_frontend::abi::ROOT;
use fsrv_frontend::tree::Pattern;
use fsrv_frontend::{Client, Error};
use rustix::fs::OFlags;

use crate::load::warm;

pub(super) const BLOCK: u64 = 4096;
pub(super) const LARGE: u64 = 1 << 20;
/// Names for lookups.
const NAMES: usize = 1000;
/// Entries of the directory that is listed.
const LISTED: usize = 10_000;

/// A file that a client has open.
#[derive(Clone, Copy)]
pub(super) struct OpenFile {
    pub(super) node: u64,
    pub(super) fh: u64,
    pub(super) size: u64,
    pub(super) flags: u32,
    /// Of its [`Pattern`].
    pub(super) number: u64,
}

/// The directory that is served.
pub(super) struct Files {
    pub(super) dir: PathBuf,
    size: u64,
}

impl Files {
    /// Makes `read`, `direct`, a file to write for each of `writers`, `names/` and `listed/`.
    pub(super) fn make(dir: PathBuf, mib: u64, writers: &[String]) -> Result<Self> {
        let files = Files { dir, size: mib << 20 };
        let data = ["read", "direct"].into_iter().chain(writers.iter().map(String::as_str));
        for (number, name) in data.enumerate() {
            files.write(name, number as u64).context("cannot make the files of the rows")?;
        }
        for (directory, count) in [("names", NAMES), ("listed", LISTED)] {
            fs::create_dir(files.path(directory))?;
            for number in 0..count {
                File::create(files.path(directory).join(name(number)))?;
            }
        }
        rustix::fs::sync();
        Ok(files)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, number: u64) -> Result<()> {
        let mut file = File::create(self.path(name))?;
        let mut block = vec![0; LARGE as usize];
        for offset in (0..self.size).step_by(LARGE as usize) {
            Pattern::new(number).fill(offset, &mut block);
            file.write_all(&block)?;
        }
        Ok(file.sync_all()?)
    }

    /// Reads a file once, so that it is cached.
    pub(super) fn warm(&self, name: &str) -> Result<()> {
        warm(&self.path(name))
    }

    /// Opens one of the data files, to read, or to write, or past the host's cache.
    pub(super) fn open(&self, client: &mut Client, name: &str, flags: OFlags) -> Result<OpenFile> {
        let node = client.lookup(ROOT, name.as_bytes())?.nodeid;
        let flags = flags.bits();
        let fh = client.open(node, flags)?.fh;
        let number = u64::from(name == "direct");
        Ok(OpenFile { node, fh, size: self.size, flags, number })
    }

    /// The node of a directory.
    pub(super) fn directory(client: &mut Client, name: &str) -> Result<u64, Error> {
        Ok(client.lookup(ROOT, name.as_bytes())?.nodeid)
    }

    /// Names in `names/`.
    pub(super) fn names() -> Vec<String> {
        (0..NAMES).map(name).collect()
    }

    /// Names that are in no directory.
    pub(super) fn absent_names() -> Vec<String> {
        (0..NAMES).map(|number| format!("absent{number:06}")).collect()
    }
}

impl OpenFile {
    pub(super) fn close(self, client: &mut Client) -> Result<()> {
        client.release(self.node, self.fh)?;
        Ok(client.forget(self.node, 1)?)
    }
}

fn name(number: usize) -> String {
    format!("file{number:06}")
}

/// A file opened natively as a row needs it.
pub(super) fn open_native(path: &Path, writes: bool) -> Result<File> {
    Ok(File::options().read(true).write(writes).open(path)?)
}
