//! A disk image in the share: the guest makes a filesystem in it, and the host looks at that.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{installed, same};
use crate::guest::{BOOT_LIMIT, Guest, Server};
use crate::lab::Lab;
use crate::program;

const FORMATS: [&str; 2] = ["raw", "qcow2"];

const MIB: u64 = 1 << 20;

/// What the guest does with it: there is one file, nothing else can be made, and it is a disk.
const SCRIPT: &str = "
    ls -A /mnt
    touch /mnt/other 2>/dev/null && echo a second file was made
    mke2fs -F /mnt/disk >/dev/null
    stat -c '%s %a' /mnt/disk
    echo marked | dd of=/mnt/disk bs=512 seek=1 conv=notrunc,fsync 2>/dev/null
    dd if=/mnt/disk bs=512 skip=1 count=1 2>/dev/null | head -c 7
";

pub(super) fn makes_a_filesystem(lab: &Lab) -> Result<()> {
    for format in FORMATS {
        let dir = lab.directory()?;
        let image = dir.path().join("disk.image");
        create(&image, format)?;
        let args = ["--format", format, "--writable", "--name", "disk"];
        let server = Server::of_image(lab, &image, &args)?;
        let printed = Guest::default().run(&server, SCRIPT, BOOT_LIMIT)?;
        same(&format!("disk\n{} 600\nmarked\n", 64 * MIB), &printed)?;
        server.stop()?;
        check(&image, format, dir.path())?;
    }
    Ok(())
}

fn create(image: &Path, format: &str) -> Result<()> {
    if format == "raw" {
        return Ok(File::create(image)?.set_len(64 * MIB)?);
    }
    let mut command = Command::new(installed("qemu-img")?);
    command.args(["create", "-q", "-f", format]).arg(image).arg("64M");
    program::check(&mut command, BOOT_LIMIT).map(drop)
}

/// The host finds a sound image, and a sound filesystem in it.
fn check(image: &Path, format: &str, dir: &Path) -> Result<()> {
    let raw = dir.join("raw");
    let mut convert = Command::new(installed("qemu-img")?);
    convert.args(["convert", "-f", format, "-O", "raw"]).arg(image).arg(&raw);
    program::check(&mut convert, BOOT_LIMIT)?;
    if format == "qcow2" {
        let mut check = Command::new(installed("qemu-img")?);
        program::check(check.args(["check", "-q", "-f", format]).arg(image), BOOT_LIMIT)?;
    }
    let mut fsck = Command::new(installed("e2fsck")?);
    program::check(fsck.arg("-fn").arg(&raw), BOOT_LIMIT).map(drop)
}
