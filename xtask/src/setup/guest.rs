//! What boots a virtual machine: QEMU is installed; the guest's kernel and shell are only unpacked.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::debian::{self, Archive};
use super::{apt, find};
use crate::program;

/// All of one version: the tests compare qemu-img with qemu-storage-daemon, and Debian allows no mixture.
const QEMU_PACKAGES: [&str; 2] = ["qemu-system-x86", "qemu-utils"];
const QEMU_PROGRAMS: [&str; 3] = ["qemu-system-x86_64", "qemu-img", "qemu-storage-daemon"];

/// Depends on the newest kernel of a release.
const KERNEL: &str = "linux-image-cloud-amd64";

const SHELL: &str = "busybox-static";

/// Which kernel a guest has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// The release's own.
    #[default]
    Release,
    /// A newer one, of the release's backports.
    Backports,
}

/// Brings what is missing of what every guest needs.
pub(super) fn run() -> Result<()> {
    let lacks_qemu = !same_qemu() || find("cpio").is_none();
    if lacks_qemu || !Kernel::Release.directory()?.exists() || !busybox()?.exists() {
        apt(&["update", "--quiet"])?;
    }
    if lacks_qemu {
        install_qemu()?;
    }
    debian::unpack(&Archive::OfMachine, SHELL, SHELL)?;
    Kernel::Release.bring()
}

impl Kernel {
    /// The kernel, unpacked: `boot` and `lib/modules` are in it.
    pub(crate) fn directory(self) -> Result<PathBuf> {
        debian::unpacked(match self {
            Self::Release => "linux",
            Self::Backports => "linux-backports",
        })
    }

    /// Brings it, unless it is there.
    pub(crate) fn bring(self) -> Result<()> {
        let place = self.directory()?;
        if place.exists() {
            return Ok(());
        }
        let archive = match self {
            Self::Release => Archive::OfMachine,
            Self::Backports => Archive::backports()?,
        };
        let package = archive.dependency(KERNEL)?;
        let name = place.file_name().and_then(|name| name.to_str()).context("no name")?;
        debian::unpack(&archive, &package, name)
    }
}

/// The guest's shell and its tools: one program that needs no library.
pub(crate) fn busybox() -> Result<PathBuf> {
    Ok(debian::unpacked(SHELL)?.join("bin/busybox"))
}

/// Whether all of QEMU is there, in one version.
fn same_qemu() -> bool {
    let versions = QEMU_PROGRAMS.map(|program| qemu_version(program).ok());
    versions[0].is_some() && versions.iter().all(|version| *version == versions[0])
}

/// `7.2.22`, from a line that is different in every program.
fn qemu_version(program: &str) -> Result<String> {
    let path = find(program).context("not installed")?;
    let mut command = Command::new(path);
    let printed = program::check(command.arg("--version"), Duration::from_secs(60))?;
    let mut words = printed.split_whitespace().skip_while(|word| *word != "version");
    Ok(words.nth(1).context("no version")?.into())
}

fn install_qemu() -> Result<()> {
    let version = Archive::OfMachine.candidate(QEMU_PACKAGES[0])?;
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
