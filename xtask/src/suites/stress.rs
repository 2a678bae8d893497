//! stress-ng's filesystem stressors, which verify what they read.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::yardstick::{Case, compare};
use crate::lab::Lab;
use crate::program;
use crate::tally::Tally;

const LIMIT: Duration = Duration::from_secs(120);

/// How long each stressor runs.
const TIME: &str = "5s";

const STRESSORS: [&str; 22] = [
    "chmod",
    "chown",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "fallocate",
    "fiemap",
    "filename",
    "flock",
    "fpunch",
    "getdent",
    "hdd",
    "lease",
    "link",
    "lockf",
    "rename",
    "seek",
    "symlink",
    "touch",
    "utime",
    "xattr",
];

pub(crate) fn run(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let case = |name: &&'static str| {
        let name = *name;
        Case::new(name, move |dir: &Path| stress(dir, name))
    };
    let cases: Vec<_> = STRESSORS.iter().map(case).collect();
    compare(lab, &lab.variants(), &cases, tally)
}

fn stress(dir: &Path, stressor: &str) -> Result<String> {
    let mut command = Command::new("stress-ng");
    command.arg(format!("--{stressor}")).args(["2", "--verify", "--timeout", TIME]);
    command.arg("--temp-path").arg(dir);
    program::check(&mut command, LIMIT)?;
    Ok(String::from("verified"))
}
