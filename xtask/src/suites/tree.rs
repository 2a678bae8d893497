//! All of /usr through a read-only mount: every byte and every attribute.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::lab::{Lab, Variant};
use crate::mount::Mount;
use crate::tally::Tally;

const TREE: &str = "/usr";

/// Fewer mean that the walk went wrong.
const FILES: usize = 1000;

pub(crate) fn run(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let variants =
        if lab.full { lab.variants() } else { vec![Variant::new("uring", "prefer", "auto")] };
    for variant in variants {
        tally.count(&format!("[{}] {TREE}", variant.name()), on_mount(lab, &variant));
    }
    Ok(())
}

fn on_mount(lab: &Lab, variant: &Variant) -> Result<()> {
    let mountpoint = lab.directory()?;
    let args = [&variant.args[..], &["--readonly"]].concat();
    let mount = Mount::serve(lab.fsrv()?, Path::new(TREE), mountpoint.path(), &args)?;
    let mut walk = Walk { buffers: [vec![0; 1 << 20], vec![0; 1 << 20]], files: 0, bytes: 0 };
    walk.compare(Path::new(TREE), mountpoint.path())?;
    println!("{} files, {} MiB", walk.files, walk.bytes >> 20);
    ensure!(walk.files >= FILES, "only {} files", walk.files);
    mount.stop()
}

struct Walk {
    buffers: [Vec<u8>; 2],
    files: usize,
    bytes: u64,
}

impl Walk {
    fn compare(&mut self, native: &Path, mounted: &Path) -> Result<()> {
        self.files += 1;
        let meta = fs::symlink_metadata(native)?;
        let attributes =
            (attributes(native, &meta)?, attributes(mounted, &fs::symlink_metadata(mounted)?)?);
        ensure!(
            attributes.0 == attributes.1,
            "{}: natively {}, on the mount {}",
            native.display(),
            attributes.0,
            attributes.1
        );
        if meta.is_file() {
            self.contents(native, mounted).with_context(|| native.display().to_string())?;
        } else if meta.is_dir() {
            let entries = (entries(native)?, entries(mounted)?);
            ensure!(entries.0 == entries.1, "{}: other entries on the mount", native.display());
            for name in entries.0.keys() {
                self.compare(&native.join(name), &mounted.join(name))?;
            }
        } else if meta.is_symlink() {
            ensure!(
                fs::read_link(native)? == fs::read_link(mounted)?,
                "{}: another target",
                native.display()
            );
        }
        Ok(())
    }

    fn contents(&mut self, native: &Path, mounted: &Path) -> Result<()> {
        let (mut native, mut mounted) = (File::open(native)?, File::open(mounted)?);
        let [expected, got] = &mut self.buffers;
        let mut offset = 0;
        loop {
            let (count, other) = (fill(&mut native, expected)?, fill(&mut mounted, got)?);
            ensure!(expected[..count] == got[..other], "other bytes from {offset} on");
            if count == 0 {
                return Ok(());
            }
            offset += count;
            self.bytes += count as u64;
        }
    }
}

/// Reads until `buffer` is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

/// What a directory says of its entries.
fn entries(path: &Path) -> Result<BTreeMap<OsString, String>> {
    let mut entries = BTreeMap::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        entries.insert(entry.file_name(), format!("{:?}", entry.file_type()?));
    }
    Ok(entries)
}

fn attributes(path: &Path, meta: &Metadata) -> Result<String> {
    let mut list = vec![0; 65_536];
    let count = rustix::fs::llistxattr(path, &mut list[..])?;
    let mut xattrs = BTreeMap::new();
    for name in list[..count].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65_536];
        let size = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(size);
        xattrs.insert(name.to_vec(), value);
    }
    Ok(format!(
        "mode {:o} {}:{} nlink {} size {} blocks {} rdev {} ino {} mtime {}.{:09} ctime {}.{:09} xattrs {xattrs:?}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink(),
        meta.size(),
        meta.blocks(),
        meta.rdev(),
        meta.ino(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ))
}
