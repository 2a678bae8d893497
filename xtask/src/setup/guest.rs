//! What boots a virtual machine: QEMU is installed; the guest's kernel and shell are only unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{apt, find};
use crate::program;

/// All of one version: the tests compare qemu-img with qemu-storage-daemon, and Debian allows no mixture.
const QEMU_PACKAGES: [&str; 2] = ["qemu-system-x86", "qemu-utils"];
const QEMU_PROGRAMS: [&str; 3] = ["qemu-system-x86_64", "qemu-img", "qemu-storage-daemon"];

/// Depends on the newest kernel of the release.
const KERNEL: &str = "linux-image-cloud-amd64";

const SHELL: &str = "busybox-static";

const SHORT: Duration = Duration::from_secs(60);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);

/// Brings what is missing.
pub(super) fn run() -> Result<()> {
    let lacks_parts = !directory()?.join(KERNEL).exists() || !directory()?.join(SHELL).exists();
    let lacks_qemu = !same_qemu() || find("cpio").is_none();
    if lacks_qemu || lacks_parts {
        apt(&["update", "--quiet"])?;
    }
    if lacks_qemu {
        install_qemu()?;
    }
    fs::create_dir_all(directory()?)?;
    unpack(SHELL, || Ok(SHELL.into()))?;
    unpack(KERNEL, newest_kernel)
}

/// Where the unpacked packages lie.
fn directory() -> Result<PathBuf> {
    let xtask = std::env::current_exe()?;
    let target = xtask.ancestors().nth(2).context("xtask runs from outside a target directory")?;
    Ok(target.join("guest"))
}

/// The guest's kernel, unpacked: `boot` and `lib/modules` are in it.
pub(crate) fn kernel() -> Result<PathBuf> {
    Ok(directory()?.join(KERNEL))
}

/// The guest's shell and its tools: one program that needs no library.
pub(crate) fn busybox() -> Result<PathBuf> {
    Ok(directory()?.join(SHELL).join("bin/busybox"))
}

/// Whether all of QEMU is there, in one version.
fn same_qemu() -> bool {
    let versions = QEMU_PROGRAMS.map(|program| qemu_version(program).ok());
    versions[0].is_some() && versions.iter().all(|version| *version == versions[0])
}

/// `7.2.22`, from a line that is different in every program.
fn qemu_version(program: &str) -> Result<String> {
    let path = find(program).context("not installed")?;
    let printed = program::check(Command::new(path).arg("--version"), SHORT)?;
    let mut words = printed.split_whitespace().skip_while(|word| *word != "version");
    Ok(words.nth(1).context("no version")?.into())
}

fn install_qemu() -> Result<()> {
    let policy = apt_cache(&["policy", QEMU_PACKAGES[0]])?;
    let version = after(&policy, "Candidate: ").context("apt knows no QEMU")?;
    let wanted = QEMU_PACKAGES.map(|package| format!("{package}={version}"));
    println!("installing {} cpio", wanted.join(" "));
    // A newer qemu-utils, as some machines have it, is of no use beside this release's QEMU.
    let mut args = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    args.extend(["--allow-downgrades", "cpio"]);
    args.extend(wanted.iter().map(String::as_str));
    apt(&args)?;
    if !same_qemu() {
        bail!("{} are not of one version", QEMU_PROGRAMS.join(", "));
    }
    Ok(())
}

fn newest_kernel() -> Result<String> {
    let depends = apt_cache(&["depends", "--important", KERNEL])?;
    Ok(after(&depends, "Depends: ").with_context(|| format!("apt knows no {KERNEL}"))?.into())
}

fn apt_cache(args: &[&str]) -> Result<String> {
    program::check(Command::new("apt-cache").args(args).env("LC_ALL", "C"), SHORT)
}

/// The rest of the first line that has `key`.
fn after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.split_once(key)).map(|(_, rest)| rest.trim())
}

/// Downloads a package and unpacks it into the directory `name`, which is there only when it is complete.
fn unpack(name: &str, package: impl FnOnce() -> Result<String>) -> Result<()> {
    let place = directory()?.join(name);
    if place.exists() {
        return Ok(());
    }
    let package = package()?;
    println!("unpacking {package}");
    let work = tempfile::tempdir_in(directory()?)?;
    let mut download = Command::new("apt-get");
    download.args(["download", "--quiet", &package]).current_dir(work.path());
    program::check(&mut download, DOWNLOAD_LIMIT)?;
    let archive = only_entry(work.path())?;
    let unpacked = work.path().join("unpacked");
    let mut dpkg = Command::new("dpkg-deb");
    program::check(dpkg.arg("--extract").arg(archive).arg(&unpacked), DOWNLOAD_LIMIT)?;
    fs::rename(&unpacked, &place)
        .or_else(|error| if place.exists() { Ok(()) } else { Err(error) })
        .with_context(|| format!("cannot make {}", place.display()))
}

fn only_entry(dir: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(dir)?;
    let entry = entries.next().with_context(|| format!("{} is empty", dir.display()))??;
    Ok(entry.path())
}
