//! A virtual machine that mounts a served directory.

mod debian;
mod exercise;
mod fsx;
mod image;
mod mount;
mod pjdfstest;
mod queues;
mod sharing;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

pub(crate) use self::exercise::Exercise;
use super::yardstick::same;
use crate::guest::{BOOT_LIMIT, Guest, Server};
use crate::lab::Lab;
use crate::program;
use crate::setup;
use crate::tally::Tally;

type Test = fn(&Lab) -> Result<()>;

const TESTS: [(&str, Test); 8] = [
    ("files", files),
    ("the guest restarts", guest_restarts),
    ("the server restarts", server_restarts),
    ("programs", programs),
    ("fsx", fsx::run),
    ("a disk image", image::makes_a_filesystem),
    ("two guests count", sharing::two_guests_count),
    ("a mount in the guest", mount::exercise),
];

/// What takes longer, and what other packages are needed for.
const FULL_TESTS: [(&str, Test); 3] = [
    ("a Debian system in the share", debian::boots_from_the_share),
    ("two request queues", queues::two),
    ("random operations on a mount in the guest", mount::property),
];

pub(crate) fn run(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let full = FULL_TESTS.iter().filter(|_| lab.full);
    for (name, test) in TESTS.iter().chain(full) {
        let start = std::time::Instant::now();
        tally.count(name, test(lab));
        println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
    }
    let outcome = pjdfstest::run(lab, tally);
    tally.count("pjdfstest", outcome);
    if lab.full {
        let outcome = mount::pjdfstest(lab, tally);
        tally.count("pjdfstest on a mount in the guest", outcome);
    }
    Ok(())
}

/// Everything that programs do with files: the guest sees what is seen natively, and leaves the same files.
fn files(lab: &Lab) -> Result<()> {
    let xtask = std::env::current_exe()?;
    let (native, shared) = (lab.directory()?, lab.directory()?);
    let mut command = Command::new(&xtask);
    let expected = program::check(command.arg("exercise").arg(native.path()), BOOT_LIMIT)
        .context("the exercise fails natively")?;
    let server = Server::start(lab, shared.path(), &[])?;
    let guest = Guest::default().with_program(&xtask)?;
    let seen = guest.run(&server, "xtask exercise /mnt", BOOT_LIMIT)?;
    same(&expected, &seen)?;
    server.stop()?;
    same(&exercise::describe(native.path())?, &exercise::describe(shared.path())?)
}

/// A restart is a reset of the device in the middle of a session; the server stays.
fn guest_restarts(lab: &Lab) -> Result<()> {
    const RESTARTS: &str = "
        echo line >>/mnt/boots
        boots=$(wc -l </mnt/boots)
        if [ $boots -lt 3 ]; then
            exec 3>/mnt/open-$boots
            echo not flushed >&3
            reboot -f
        fi
        cat /mnt/boots /mnt/open-*
    ";
    let dir = lab.directory()?;
    let server = Server::start(lab, dir.path(), &[])?;
    let printed = Guest::default().run(&server, RESTARTS, BOOT_LIMIT)?;
    server.stop()?;
    same(&format!("{}{}", "line\n".repeat(3), "not flushed\n".repeat(2)), &printed)
}

/// A second server, and a second machine, go on where the first ones ended.
fn server_restarts(lab: &Lab) -> Result<()> {
    let dir = lab.directory()?;
    let guest = Guest::default();
    let boot = |script: &str| {
        let server = Server::start(lab, dir.path(), &[])?;
        let printed = guest.run(&server, script, BOOT_LIMIT)?;
        server.stop()?;
        Ok::<_, anyhow::Error>(printed)
    };
    boot("mkdir /mnt/dir && echo first >/mnt/dir/file && chmod 640 /mnt/dir/file")?;
    fs::write(dir.path().join("dir/beside"), "by the host\n")?;
    let printed = boot("cat /mnt/dir/* && stat -c %a /mnt/dir/file")?;
    same("by the host\nfirst\n640\n", &printed)
}

/// A program that lies in the share.
fn programs(lab: &Lab) -> Result<()> {
    let dir = lab.directory()?;
    fs::copy(setup::guest::busybox()?, dir.path().join("busybox"))?;
    let server = Server::start(lab, dir.path(), &[])?;
    let script = "/mnt/busybox echo from the share && /mnt/busybox sha256sum /mnt/busybox";
    let printed = Guest::default().run(&server, script, BOOT_LIMIT)?;
    let sum = program::check(Command::new("sha256sum").arg(setup::guest::busybox()?), BOOT_LIMIT)?;
    let sum = sum.split_whitespace().next().context("no checksum")?;
    same(&format!("from the share\n{sum}  /mnt/busybox\n"), &printed)?;
    server.stop()
}

fn installed(program: &str) -> Result<PathBuf> {
    setup::find(program).with_context(|| format!("{program} is not installed"))
}
