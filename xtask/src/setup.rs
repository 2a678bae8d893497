//! `cargo xtask setup`

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::program;

pub(crate) mod debian;
pub(crate) mod guest;

/// Install what the tests need and this machine lacks (Debian and its like; as root)
#[derive(Args)]
pub(crate) struct Setup {}

/// A Debian package, and a file that tells whether it is there: a program's name, or an absolute path.
struct Package {
    name: &'static str,
    gives: &'static str,
}

/// A program which `cargo install` builds; the version matters where tests are counted.
pub(crate) struct CrateProgram {
    name: &'static str,
    version: Option<&'static str>,
}

const PACKAGES: [Package; 14] = [
    Package { name: "acl", gives: "setfacl" },
    Package { name: "attr", gives: "setfattr" },
    Package { name: "bindfs", gives: "bindfs" },
    Package { name: "e2fsprogs", gives: "mkfs.ext4" },
    Package { name: "fio", gives: "fio" },
    Package { name: "fuse3", gives: "fusermount3" },
    Package { name: "gcc", gives: "cc" },
    Package { name: "git", gives: "git" },
    Package { name: "libacl1-dev", gives: "/usr/include/sys/acl.h" },
    Package { name: "mount", gives: "losetup" },
    Package { name: "sqlite3", gives: "sqlite3" },
    Package { name: "stress-ng", gives: "stress-ng" },
    Package { name: "tar", gives: "tar" },
    Package { name: "util-linux", gives: "setpriv" },
];

const CRATE_PROGRAMS: [CrateProgram; 4] = [
    CrateProgram { name: "pjdfstest", version: Some("0.2.2") },
    CrateProgram { name: "fsx", version: Some("0.3.2") },
    CrateProgram { name: "cargo-deny", version: None },
    CrateProgram { name: "cargo-nextest", version: None },
];

pub(crate) const CARGO_FUZZ: CrateProgram = CrateProgram { name: "cargo-fuzz", version: None };

/// What rustup calls it, and the program it gives.
const COMPONENTS: [(&str, &str); 2] = [("rustfmt", "cargo-fmt"), ("clippy", "cargo-clippy")];

/// The user whom pjdfstest becomes beside `nobody`; its group has the same name.
const TEST_USER: &str = "tests";

impl Setup {
    pub(crate) fn run(self) -> Result<()> {
        packages()?;
        components()?;
        test_user()?;
        guest::run()?;
        CRATE_PROGRAMS.iter().try_for_each(crate_program)
    }
}

fn packages() -> Result<()> {
    let missing: Vec<_> = PACKAGES
        .iter()
        .filter(|package| find(package.gives).is_none())
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    apt(&["update", "--quiet"])?;
    apt(&[&["install", "--yes", "--quiet", "--no-install-recommends"], &missing[..]].concat())
}

fn apt(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    program::check(&mut command, Duration::from_secs(900))?;
    Ok(())
}

fn components() -> Result<()> {
    for (component, program) in COMPONENTS {
        let there = Command::new(program).arg("--version").output();
        if there.is_ok_and(|output| output.status.success()) {
            continue;
        }
        let mut command = Command::new("rustup");
        program::check(command.args(["component", "add", component]), Duration::from_secs(300))?;
    }
    Ok(())
}

fn test_user() -> Result<()> {
    let short = Duration::from_secs(30);
    if program::check(Command::new("getent").args(["passwd", TEST_USER]), short).is_ok() {
        return Ok(());
    }
    let mut command = Command::new("useradd");
    command.args([
        "--user-group",
        "--no-create-home",
        "--home-dir",
        "/",
        "--shell",
        "/usr/sbin/nologin",
    ]);
    program::check(command.arg(TEST_USER), short).context("cannot make the user of pjdfstest")?;
    Ok(())
}

/// Installs `wanted` unless it is there, in its version where one is asked for.
pub(crate) fn crate_program(wanted: &CrateProgram) -> Result<()> {
    if installed(wanted) {
        return Ok(());
    }
    println!("installing {}", wanted.name);
    let mut command = Command::new("cargo");
    command.args(["install", "--locked", "--force", "--quiet", wanted.name]);
    if let Some(version) = wanted.version {
        command.args(["--version", version]);
    }
    program::check(&mut command, Duration::from_secs(1200))?;
    Ok(())
}

fn installed(wanted: &CrateProgram) -> bool {
    let Some(path) = find(wanted.name) else { return false };
    let Some(version) = wanted.version else { return true };
    let output = Command::new(path).arg("--version").output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(version))
}

/// Where a program lies: in PATH, where the system's own are, or where cargo installs.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(cargo_home);
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain(home.map(|home| home.join("bin")))
        .map(|directory| directory.join(name))
        .find(|file| file.exists())
}

fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"))
}
