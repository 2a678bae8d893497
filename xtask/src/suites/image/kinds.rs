//! The kinds of images that QEMU makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::LIMIT;
use super::content::Random;
use crate::lab::Lab;
use crate::program;

/// Bytes of content.
pub(super) const SIZE: u64 = 48 << 20;

/// Parts that are filled; the rest is left out.
const PARTS: usize = 24;

const SMALL_CLUSTERS: &str = "cluster_size=512";

pub(super) struct Kind {
    pub(super) name: &'static str,
    format: &'static str,
    /// For `qemu-img create -o`.
    options: &'static str,
    history: History,
}

/// How an image came to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum History {
    Written,
    Compressed,
    /// It was changed after a snapshot.
    Snapshot,
    /// It is the third layer: over qcow2, over raw.
    Chain,
    /// Its data are in another file.
    DataFile,
}

const fn qcow2(name: &'static str, options: &'static str) -> Kind {
    Kind { name, format: "qcow2", options, history: History::Written }
}

const fn raw(name: &'static str, options: &'static str) -> Kind {
    Kind { name, format: "raw", options, history: History::Written }
}

pub(super) const KINDS: [Kind; 20] = [
    raw("raw", "preallocation=off"),
    raw("raw, preallocated", "preallocation=full"),
    qcow2("qcow2", "compat=1.1"),
    qcow2("version 2", "compat=0.10"),
    qcow2("clusters of 512", SMALL_CLUSTERS),
    qcow2("clusters of 4 KiB", "cluster_size=4k"),
    qcow2("clusters of 2 MiB", "cluster_size=2M"),
    qcow2("preallocated metadata", "preallocation=metadata"),
    qcow2("preallocated by fallocate", "preallocation=falloc"),
    qcow2("preallocated", "preallocation=full"),
    qcow2("preallocated clusters of 4 KiB", "preallocation=metadata,cluster_size=4k"),
    qcow2("refcounts of 1 bit", "refcount_bits=1"),
    qcow2("refcounts of 64 bits", "refcount_bits=64"),
    qcow2("lazy refcounts", "lazy_refcounts=on"),
    Kind { history: History::Compressed, ..qcow2("compressed", "compat=1.1") },
    Kind { history: History::Snapshot, ..qcow2("snapshot", "compat=1.1") },
    Kind { history: History::Chain, ..qcow2("chain of three", "compat=1.1") },
    Kind { history: History::Chain, ..qcow2("chain, small clusters", "cluster_size=4k") },
    Kind { history: History::DataFile, ..qcow2("data file", "data_file_raw=off") },
    Kind { history: History::DataFile, ..qcow2("raw data file", "data_file_raw=on") },
];

/// An image with what it refers to, in a directory of its own.
pub(super) struct Made {
    pub(super) format: &'static str,
    pub(super) path: PathBuf,
    place: TempDir,
}

impl Kind {
    /// One of this kind with content, the same each time.
    pub(super) fn make(&self, lab: &Lab) -> Result<Made> {
        let place = lab.directory()?;
        let image = Made { format: self.format, path: place.path().join("image"), place };
        match self.history {
            History::Compressed => self.compress(&image)?,
            History::Chain => self.layers(&image)?,
            History::DataFile => {
                // QEMU does not look for it beside the image.
                let file = format!("data_file={},{}", image.at("data").display(), self.options);
                create(&image, &image.path, self.format, &["-o", &file])?;
                fill(&image.path, self.format, 1)?;
            }
            History::Written => {
                create(&image, &image.path, self.format, &["-o", self.options])?;
                fill(&image.path, self.format, 1)?;
            }
            History::Snapshot => {
                create(&image, &image.path, self.format, &["-o", self.options])?;
                fill(&image.path, self.format, 1)?;
                qemu_img(&["snapshot", "-c", "before"], &[&image.path])?;
                fill(&image.path, self.format, 2)?;
            }
        }
        Ok(image)
    }

    /// Whether it is not refused: O_DIRECT wants larger clusters.
    pub(super) fn can_be_served(&self, way: &[&str]) -> bool {
        self.options != SMALL_CLUSTERS || !way.contains(&"direct")
    }

    fn compress(&self, image: &Made) -> Result<()> {
        let raw = image.at("content");
        create(image, &raw, "raw", &[])?;
        fill(&raw, "raw", 1)?;
        let convert = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", self.options];
        qemu_img(&convert, &[&raw, &image.path])?;
        fs::remove_file(raw)?;
        Ok(())
    }

    fn layers(&self, image: &Made) -> Result<()> {
        let (base, middle) = (image.at("base"), image.at("middle"));
        create(image, &base, "raw", &[])?;
        fill(&base, "raw", 1)?;
        create(image, &middle, "qcow2", &["-F", "raw", "-b", "base"])?;
        fill(&middle, "qcow2", 2)?;
        let over = ["-F", "qcow2", "-b", "middle", "-o", self.options];
        create(image, &image.path, "qcow2", &over)?;
        fill(&image.path, "qcow2", 3)
    }
}

impl Made {
    pub(super) fn new(lab: &Lab, format: &'static str, size: u64) -> Result<Self> {
        let place = lab.directory()?;
        let image = Self { format, path: place.path().join("image"), place };
        let create = ["create", "-q", "-f", format];
        qemu_img_sized(&create, &image.path, size, image.place.path())?;
        Ok(image)
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// The directory of all its files.
    pub(super) fn directory(&self) -> &Path {
        self.place.path()
    }

    /// The image, and what it refers to.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>> {
        let names = ["image", "base", "middle", "data"].map(|name| self.at(name));
        Ok(names.into_iter().filter(|path| path.exists()).collect())
    }

    /// The content by QEMU, in a new file.
    pub(super) fn as_raw(&self, name: &str) -> Result<PathBuf> {
        let raw = self.at(name);
        qemu_img(&["convert", "-f", self.format, "-O", "raw"], &[&self.path, &raw])?;
        Ok(raw)
    }

    /// QEMU finds no error, and no cluster that nobody uses.
    pub(super) fn check(&self) -> Result<()> {
        if self.format == "qcow2" {
            qemu_img(&["check", "-q", "-f", "qcow2"], &[&self.path])?;
        }
        Ok(())
    }
}

fn create(image: &Made, path: &Path, format: &str, more: &[&str]) -> Result<()> {
    let args = [&["create", "-q", "-f", format], more].concat();
    qemu_img_sized(&args, path, SIZE, image.directory())
}

fn qemu_img_sized(args: &[&str], path: &Path, size: u64, directory: &Path) -> Result<()> {
    let mut command = Command::new("qemu-img");
    // Names in an image are looked up beside it, and made where this runs.
    command.args(args).arg(path).arg(size.to_string()).current_dir(directory);
    program::check(&mut command, LIMIT)?;
    Ok(())
}

pub(super) fn qemu_img(args: &[&str], paths: &[&Path]) -> Result<()> {
    program::check(Command::new("qemu-img").args(args).args(paths), LIMIT)?;
    Ok(())
}

/// Writes parts of any alignment, some of them zeroes.
fn fill(path: &Path, format: &str, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let mut command = Command::new("qemu-io");
    command.args(["-f", format, "-d", "unmap"]);
    for part in 0..PARTS {
        let len = random.below(1 << 20) + 1;
        let at = random.below(SIZE - len);
        let order = if part % 8 == 7 {
            format!("write -z -u {} {}", at & !0xffff, 3 << 16)
        } else {
            format!("write -P {} {at} {len}", 1 + random.below(255))
        };
        command.args(["-c", &order]);
    }
    program::check(command.arg(path), LIMIT)?;
    Ok(())
}
