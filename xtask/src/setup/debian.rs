//! Debian's archive: packages that are unpacked and not installed, and a whole system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{apt, find};
use crate::program;

const SHORT: Duration = Duration::from_secs(60);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(900);

/// Signs Debian's archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The system that a guest boots from a share: the smallest that has an init.
const SYSTEM: &str = "debian";
const SYSTEM_PACKAGES: &str = "systemd-sysv";

/// Where packages come from.
pub(super) enum Archive {
    /// What this machine installs from.
    OfMachine,
    /// Another suite of the same mirror, which this machine need not know. The directory has apt's lists.
    Other(TempDir),
}

impl Archive {
    /// The suite with newer versions of some packages.
    pub(super) fn backports() -> Result<Self> {
        let place = tempfile::tempdir()?;
        fs::create_dir_all(place.path().join("lists/partial"))?;
        let (mirror, codename) = (mirror()?, codename()?);
        let line = format!("deb [signed-by={KEYRING}] {mirror} {codename}-backports main\n");
        fs::write(place.path().join("sources.list"), line)?;
        let archive = Self::Other(place);
        program::check(archive.apt("apt-get").args(["update", "--quiet"]), DOWNLOAD_LIMIT)?;
        Ok(archive)
    }

    /// The version that would be installed.
    pub(super) fn candidate(&self, package: &str) -> Result<String> {
        self.ask(&["policy", package], "Candidate: ")
    }

    /// The first package that `package` depends on.
    pub(super) fn dependency(&self, package: &str) -> Result<String> {
        self.ask(&["depends", "--important", package], "Depends: ")
    }

    /// The rest of the first line that has `key`.
    fn ask(&self, question: &[&str], key: &str) -> Result<String> {
        let answer = program::check(self.apt("apt-cache").args(question), SHORT)?;
        let rest = answer.lines().find_map(|line| line.split_once(key)).map(|(_, rest)| rest);
        Ok(rest.with_context(|| format!("apt knows no {}", question.join(" ")))?.trim().into())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        if let Self::Other(place) = self {
            let at = |name: &str| place.path().join(name).display().to_string();
            for option in [
                format!("Dir::Etc::SourceList={}", at("sources.list")),
                format!("Dir::State::Lists={}", at("lists")),
                "Dir::Etc::SourceParts=-".into(),
                "Dir::Cache::pkgcache=".into(),
                "Dir::Cache::srcpkgcache=".into(),
            ] {
                command.args(["-o", &option]);
            }
        }
        command
    }
}

/// Where the package called `name` lies when it is unpacked.
pub(super) fn unpacked(name: &str) -> Result<PathBuf> {
    let xtask = std::env::current_exe()?;
    let target = xtask.ancestors().nth(2).context("xtask runs from outside a target directory")?;
    Ok(target.join("guest").join(name))
}

/// Downloads `package` and unpacks it as `name`, unless that is there.
pub(super) fn unpack(archive: &Archive, package: &str, name: &str) -> Result<()> {
    make_once(name, |work| {
        println!("unpacking {package}");
        let mut download = archive.apt("apt-get");
        download.args(["download", "--quiet", package]).current_dir(work);
        program::check(&mut download, DOWNLOAD_LIMIT)?;
        let file = fs::read_dir(work)?.next().context("apt downloaded nothing")??.path();
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.arg("--extract").arg(file).arg(work.join(name));
        program::check(&mut dpkg, DOWNLOAD_LIMIT)?;
        Ok(())
    })
}

/// A whole Debian system, made unless it is there.
pub(crate) fn system() -> Result<PathBuf> {
    make_once(SYSTEM, |work| {
        println!("making a Debian system");
        if find("debootstrap").is_none() {
            apt(&["update", "--quiet"])?;
            apt(&["install", "--yes", "--quiet", "--no-install-recommends", "debootstrap"])?;
        }
        let mut command = Command::new("debootstrap");
        command.args(["--variant=minbase", &format!("--include={SYSTEM_PACKAGES}"), &codename()?]);
        program::check(command.arg(work.join(SYSTEM)).arg(mirror()?), DOWNLOAD_LIMIT)?;
        Ok(())
    })?;
    unpacked(SYSTEM)
}

/// Lets `make` fill a directory called `name` in a directory for its work; it is there only when it is complete.
fn make_once(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let place = unpacked(name)?;
    if place.exists() {
        return Ok(());
    }
    let parent = place.parent().context("no directory to unpack in")?;
    fs::create_dir_all(parent)?;
    let work = tempfile::tempdir_in(parent)?;
    make(work.path())?;
    fs::rename(work.path().join(name), &place)
        .or_else(|error| if place.exists() { Ok(()) } else { Err(error) })
        .with_context(|| format!("cannot make {}", place.display()))
}

/// Where this machine has its packages from.
fn mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    command.arg(format!("Codename: {}", codename()?));
    let mirrors = program::check(&mut command, SHORT)?;
    Ok(mirrors.lines().next().context("apt knows no mirror of this release")?.into())
}

/// `bookworm`
fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release")?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("this release has no name")?.into())
}
