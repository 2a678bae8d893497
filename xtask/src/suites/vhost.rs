//! The virtio-fs device without a virtual machine: a front-end that verifies a tree, and a small monitor that has the
//! device inside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::yardstick::same;
use crate::lab::Lab;
use crate::program;
use crate::tally::Tally;

/// Both engines.
const SERVERS: [&str; 2] = ["fsrv", "fsrv-threads"];

/// Twenty times what it takes.
const LIMIT: Duration = Duration::from_secs(300);

/// A moment before the limit the front-end is asked to end what it started: its server, and whoever drops the caches.
const TIMEOUT: [&str; 2] = ["--kill-after=10", "280"];

pub(crate) fn run(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let built = build()?;
    for server in SERVERS {
        tally.count(&format!("[{server}] every byte of a tree"), tree(lab, &built, server));
    }
    tally.count("a monitor with the device inside", monitor(lab, &built));
    Ok(())
}

/// Builds the front-end and the example as users run them; both at once takes half the time. Returns where they are.
fn build() -> Result<PathBuf> {
    program::show(
        Command::new("cargo")
            .args(["build", "--release", "--package", "fsrv-benches", "--bin", "fsrv-benches"])
            .args(["--package", "fsrv-examples", "--example", "vmm"]),
    )?;
    let xtask = std::env::current_exe()?;
    let target = xtask.ancestors().nth(2).context("xtask runs from outside a target directory")?;
    Ok(target.join("release"))
}

/// 2 GiB in 50,000 files through two queues, while another process drops the host's caches.
fn tree(lab: &Lab, built: &Path, server: &str) -> Result<()> {
    let place = lab.directory()?;
    let start = Instant::now();
    let mut command = Command::new("timeout");
    command
        .args(TIMEOUT)
        .arg(built.join("fsrv-benches"))
        .args(["verify", "--server", server, "--queues", "2", "--files", "50000", "--mib", "2048"])
        .arg("--fsrv")
        .arg(lab.fsrv()?)
        .arg("--scratch")
        .arg(place.path());
    let printed = program::check(&mut command, LIMIT)?;
    print!("{printed}");
    println!("{server}: {:.1} s with making the tree", start.elapsed().as_secs_f64());
    let verified = "50000 files and 2147483648 bytes in ";
    ensure!(printed.contains(verified), "it does not say that it saw {verified}..");
    ensure!(printed.contains(" verified through 2 queues "), "it did not use two queues");
    Ok(())
}

/// The example does what it says: it reads a file, pauses, goes on, and resets its device.
fn monitor(lab: &Lab, built: &Path) -> Result<()> {
    let dir = lab.directory()?;
    fs::write(dir.path().join("file"), "first\nsecond\n")?;
    let mut command = Command::new(built.join("examples/vmm"));
    let printed = program::check(command.arg(dir.path()).arg("file"), LIMIT)?;
    // Which of its names a directory tells last is its filesystem's affair.
    let lines = printed.lines().map(|line| line.split(", Some(").next().unwrap_or(line));
    same(
        "device: tag \"share\"\n\
         guest: read 13 bytes: \"first\"\n\
         device: paused, the next messages are [0, 5, 0]\n\
         guest: 3 names after the pause\n\
         device: reset; it holds 1 inode and 0 handles",
        &lines.collect::<Vec<_>>().join("\n"),
    )
}
