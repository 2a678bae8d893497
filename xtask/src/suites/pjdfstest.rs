//! pjdfstest: what POSIX says of files, call by call.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

use crate::lab::{Lab, Variant};
use crate::program;
use crate::setup;
use crate::tally::Tally;

/// How many tests pjdfstest 0.2.2 has. Fewer mean that some did not run.
const TESTS: usize = 398;

/// Asks pathconf(3) for LINK_MAX, which the C library answers by the filesystem's magic number: it knows no FUSE.
const SKIPPED_ON_FUSE: &str = "link::link_count_max";

const LIMIT: Duration = Duration::from_secs(300);

/// What the tests may expect of a Linux filesystem. The pause is longer than a kernel tick.
const CONFIG: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = REMOUNT
[dummy_auth]
entries = [["nobody", "nogroup"], ["tests", "tests"]]
"#;

/// The tests remount by mount(8), which hands FUSE filesystems to a program of libfuse unless told not to. An unlinked
/// file keeps its mount busy until the server has answered a RELEASE that close(2) did not wait for: hence the loop.
const REMOUNT: &str = r#"#!/bin/sh
for attempt in 1 2 3 4 5 6 7 8 9; do
    MOUNT --internal-only "$@" 2>/dev/null && exit
    sleep 0.05
done
exec MOUNT --internal-only "$@"
"#;

/// How each test ended (`ok`, `FAILED`, `skipped`), and what it said.
pub(super) type Outcomes = BTreeMap<String, (String, String)>;

pub(crate) fn run(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let suite = Pjdfstest::prepare(lab)?;
    let expected = suite.on_native(lab)?;
    for variant in lab.variants() {
        let outcome = on_mount(lab, &suite, &variant, &expected, tally);
        tally.count(&format!("[{}] mount and unmount", variant.name()), outcome);
    }
    Ok(())
}

fn on_mount(
    lab: &Lab,
    suite: &Pjdfstest,
    variant: &Variant,
    expected: &Outcomes,
    tally: &mut Tally,
) -> Result<()> {
    let served = lab.serve(variant)?;
    let mut outcomes = suite.run(served.path(), Part::InPlace)?;
    outcomes.extend(suite.run(served.path(), Part::Remounting)?);
    compare(&variant.name(), expected, &outcomes, tally);
    served.stop()
}

/// Counts each test: on FUSE it must end as it does natively.
pub(super) fn compare(place: &str, expected: &Outcomes, outcomes: &Outcomes, tally: &mut Tally) {
    for (name, (natively, _)) in expected {
        let (outcome, said) =
            outcomes.get(name).map_or(("missing", ""), |(outcome, said)| (outcome, said));
        let name = format!("[{place}] {name}");
        if outcome == natively {
            tally.passed += 1;
        } else if name.ends_with(SKIPPED_ON_FUSE) && outcome == "skipped" {
            tally.skipped += 1;
        } else {
            tally.count(&name, Err(anyhow!("natively {natively}, on the mount {outcome}: {said}")));
        }
    }
}

/// The program, and what it needs beside the directory under test.
pub(super) struct Pjdfstest {
    pub(super) program: PathBuf,
    tools: TempDir,
}

/// Some tests make their filesystem read-only, which must not happen to the machine's disk.
#[derive(Clone, Copy)]
pub(super) enum Part {
    InPlace,
    Remounting,
}

impl Pjdfstest {
    pub(super) fn prepare(lab: &Lab) -> Result<Self> {
        let program = setup::find("pjdfstest").context("pjdfstest is not installed")?;
        let tools = lab.directory()?;
        fs::write(tools.path().join("in-place.toml"), config(Part::InPlace))?;
        fs::write(tools.path().join("remounting.toml"), config(Part::Remounting))?;

        let system = setup::find("mount").context("no mount program")?;
        let mount = tools.path().join("mount");
        fs::write(&mount, remount(&system))?;
        fs::set_permissions(&mount, Permissions::from_mode(0o755))?;
        Ok(Self { program, tools })
    }

    /// The yardstick: the disk, and for the tests that remount a tmpfs of our own.
    pub(super) fn on_native(&self, lab: &Lab) -> Result<Outcomes> {
        let mut outcomes = self.run(lab.directory()?.path(), Part::InPlace)?;
        let tmpfs = Tmpfs::mount(lab.directory()?)?;
        outcomes.extend(self.run(tmpfs.0.path(), Part::Remounting)?);
        if outcomes.len() != TESTS {
            bail!("pjdfstest ran {} tests, not {TESTS}", outcomes.len());
        }
        for (name, (outcome, said)) in &outcomes {
            if outcome != "ok" {
                println!("natively {outcome}: {name} {said}");
            }
        }
        Ok(outcomes)
    }

    fn run(&self, dir: &Path, part: Part) -> Result<Outcomes> {
        let path = format!("{}:{}", self.tools.path().display(), std::env::var("PATH")?);
        let second = tempfile::tempdir_in("/dev/shm")?;
        let mut command = Command::new(&self.program);
        command.arg("--path").arg(dir).arg("--secondary-fs").arg(second.path()).env("PATH", path);
        match part {
            Part::InPlace => command.arg("-c").arg(self.tools.path().join("in-place.toml")),
            Part::Remounting => {
                command.arg("-c").arg(self.tools.path().join("remounting.toml")).arg("erofs")
            }
        };
        let finished = program::run(&mut command, LIMIT)?;
        let outcomes = parse(&finished.stdout);
        if outcomes.is_empty() || !finished.stdout.contains("Summary:") {
            bail!("pjdfstest ended with {}\n{}", finished.status, finished.quote());
        }
        Ok(outcomes)
    }
}

/// The configuration file.
pub(super) fn config(part: Part) -> String {
    let remount = if matches!(part, Part::Remounting) { "true" } else { "false" };
    CONFIG.replace("REMOUNT", remount)
}

/// The `mount` that the tests call, made of the system's own.
pub(super) fn remount(system: &Path) -> String {
    REMOUNT.replace("MOUNT", &system.display().to_string())
}

/// Reads `chmod::eloop_comp     ok` lines; what a failed test said follows, indented by a tab.
pub(super) fn parse(output: &str) -> Outcomes {
    let mut outcomes = Outcomes::new();
    let mut last = None;
    for line in output.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if line.starts_with('\t') {
            if let Some(said) = last.as_ref().and_then(|name| outcomes.get_mut(name)) {
                said.1.push_str(line.trim());
            }
        } else if let [name, outcome @ ("ok" | "FAILED" | "skipped")] = words[..] {
            outcomes.insert(name.into(), (outcome.into(), String::new()));
            last = Some(name.to_string());
        }
    }
    outcomes
}

/// A filesystem that may be made read-only.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn mount(dir: TempDir) -> Result<Self> {
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), c"mode=0755")?;
        Ok(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // The directory below goes next, and says so if it cannot.
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}
