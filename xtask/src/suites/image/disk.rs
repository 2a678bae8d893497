//! What a disk is for: a filesystem on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::mount::{UnmountFlags, unmount};

use super::LIMIT;
use super::export::Export;
use super::kinds::Made;
use crate::lab::Lab;
use crate::program;
use crate::setup;
use crate::suites::fsx;
use crate::tally::Tally;

/// Of a disk with a filesystem: a thin image stays small.
const SIZE: u64 = 256 << 20;

/// Of a disk that fsx keeps in memory.
const SMALL: u64 = 1 << 20;

/// What changes no size.
const OF_ONE_SIZE: &str = "
blockmode = true
[opsize]
max = 131072
[weights]
close_open = 0
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 0
fsync = 0.3
fdatasync = 0.3
posix_fallocate = 0
punch_hole = 2
sendfile = 2
posix_fadvise = 1
copy_file_range = 2
";

/// What makes it longer as well, as disks have it: by sectors. Truncation is to any length, so it is not of qcow2.
const GROWING: &str = "
[opsize]
max = 131072
align = 512
[weights]
close_open = 1
read = 10
write = 10
mapread = 5
mapwrite = 5
invalidate = 1
truncate = TRUNCATE
fsync = 0.3
fdatasync = 0.3
posix_fallocate = 0
punch_hole = 2
sendfile = 2
posix_fadvise = 1
copy_file_range = 2
";

pub(super) fn run(lab: &Lab, tally: &mut Tally) -> Result<()> {
    for (format, truncate) in [("raw", "3"), ("qcow2", "0")] {
        let growing = GROWING.replace("TRUNCATE", truncate);
        let mut count = |name: &str, outcome: Result<()>, start: Instant| {
            let name = format!("[{format}] {name}");
            tally.count(&name, outcome);
            println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
        };
        for direct in ["off", "on"] {
            let start = Instant::now();
            count(
                &format!("ext4 over loop, direct I/O {direct}"),
                ext4(lab, format, direct),
                start,
            );
        }
        let start = Instant::now();
        count("fsx", exercise(lab, format, SMALL, OF_ONE_SIZE, &[]), start);
        let start = Instant::now();
        count("fsx, growing", exercise(lab, format, 0, &growing, &["--growable"]), start);
    }
    Ok(())
}

/// The disk itself as fsx's file.
fn exercise(lab: &Lab, format: &'static str, size: u64, config: &str, more: &[&str]) -> Result<()> {
    let (seeds, operations) = if lab.full { (10, 20_000) } else { (1, 3_000) };
    for seed in 1..=seeds {
        let image = Made::new(lab, format, size)?;
        let export = Export::of(lab, &image, &[&["--writable"], more].concat())?;
        fsx::on_file(export.file(), config, seed, operations)
            .with_context(|| export.log().unwrap_or_default())?;
        let left = fs::read(export.file())?;
        export.stop()?;
        image.check()?;
        let raw = image.as_raw("raw")?;
        ensure!(fs::read(raw)?.starts_with(&left), "the image has not what the export had");
    }
    Ok(())
}

/// A filesystem is made, mounted, used and checked, on the export and again in the image.
fn ext4(lab: &Lab, format: &'static str, direct: &str) -> Result<()> {
    let image = Made::new(lab, format, SIZE)?;
    let export = Export::of(lab, &image, &["--writable"])?;
    let device = Loop::of(export.file(), direct)?;
    run_program("mkfs.ext4", &["-q", "-F"], &device.path)?;
    use_filesystem(lab, &device.path)?;
    run_program("fsck.ext4", &["-fn"], &device.path)?;
    device.detach()?;
    export.stop()?;
    image.check()?;
    let raw = image.as_raw("raw")?;
    run_program("fsck.ext4", &["-fn"], &raw)
}

fn use_filesystem(lab: &Lab, device: &Path) -> Result<()> {
    let place = lab.directory()?;
    let mounted = Mounted::at(device, place.path())?;
    let operations = if lab.full { 20_000 } else { 2_000 };
    fsx::on_file(&place.path().join("file"), fsx::BUFFERED, 1, operations)?;
    for number in 0..200 {
        fs::write(place.path().join(number.to_string()), vec![number as u8; number * 997])?;
    }
    mounted.unmount()?;
    let mounted = Mounted::at(device, place.path())?;
    for number in 0..200 {
        let content = fs::read(place.path().join(number.to_string()))?;
        ensure!(content == vec![number as u8; number * 997], "file {number} has changed");
    }
    mounted.unmount()
}

fn run_program(name: &str, args: &[&str], path: &Path) -> Result<()> {
    let found = setup::find(name).with_context(|| format!("{name} is not installed"))?;
    program::check(Command::new(found).args(args).arg(path), LIMIT)?;
    Ok(())
}

/// A loop device. It is detached when the value is dropped.
struct Loop {
    path: PathBuf,
    attached: bool,
}

impl Loop {
    fn of(file: &Path, direct: &str) -> Result<Self> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", &format!("--direct-io={direct}")]).arg(file);
        let printed = program::check(&mut command, LIMIT)?;
        Ok(Self { path: printed.trim_end().into(), attached: true })
    }

    fn detach(mut self) -> Result<()> {
        self.attached = false;
        program::check(Command::new("losetup").arg("--detach").arg(&self.path), LIMIT)?;
        Ok(())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if self.attached {
            // It failed before; a destructor has nobody to tell.
            let _ = program::run(Command::new("losetup").arg("--detach").arg(&self.path), LIMIT);
        }
    }
}

/// A mounted filesystem. It is unmounted when the value is dropped.
struct Mounted<'a>(Option<&'a Path>);

impl<'a> Mounted<'a> {
    fn at(device: &Path, place: &'a Path) -> Result<Self> {
        let mut command = Command::new("mount");
        program::check(command.args(["-t", "ext4"]).arg(device).arg(place), LIMIT)?;
        Ok(Self(Some(place)))
    }

    fn unmount(mut self) -> Result<()> {
        match self.0.take() {
            Some(place) => Ok(unmount(place, UnmountFlags::empty())?),
            None => Ok(()),
        }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            // It failed before; a destructor has nobody to tell.
            let _ = unmount(place, UnmountFlags::DETACH);
        }
    }
}
