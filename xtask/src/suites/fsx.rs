//! fsx: random operations on one file, every read checked.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::yardstick::{Case, compare};
use crate::lab::Lab;
use crate::program;
use crate::setup;
use crate::tally::Tally;

const LIMIT: Duration = Duration::from_secs(300);

/// read(2), write(2) and what changes a file's extent.
pub(super) const BUFFERED: &str = "
[opsize]
max = 131072
[weights]
close_open = 1
read = 10
write = 10
mapread = 0
mapwrite = 0
truncate = 3
fsync = 0.3
fdatasync = 0.3
posix_fallocate = 1
punch_hole = 2
sendfile = 2
posix_fadvise = 1
copy_file_range = 2
";

/// The same bytes through mmap(2) as well.
pub(super) const MAPPED: &str = "
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 3
fsync = 0.3
fdatasync = 0.3
posix_fallocate = 1
punch_hole = 2
";

pub(crate) fn run(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let (seeds, operations) = if lab.full { (20, 20_000) } else { (2, 5_000) };
    let mut cases = Vec::new();
    for (mode, config) in [("buffered", BUFFERED), ("mapped", MAPPED)] {
        for seed in 1..=seeds {
            let exercise = move |dir: &Path| exercise(dir, config, seed, operations);
            cases.push(Case::new(format!("{mode}, seed {seed}"), exercise));
        }
    }
    compare(lab, &lab.data_variants(), &cases, tally)
}

fn exercise(dir: &Path, config: &str, seed: u32, operations: u32) -> Result<String> {
    on_file(&dir.join("file"), config, seed, operations)?;
    Ok(String::from("all operations completed"))
}

/// Lets fsx have one file.
pub(super) fn on_file(path: &Path, config: &str, seed: u32, operations: u32) -> Result<()> {
    let beside = tempfile::tempdir()?;
    let settings = beside.path().join("fsx.toml");
    std::fs::write(&settings, config)?;
    let mut command = Command::new(setup::find("fsx").context("fsx is not installed")?);
    command.args(["-S", &seed.to_string(), "-N", &operations.to_string()]);
    command.arg("-f").arg(&settings).arg("-P").arg(beside.path()).arg(path);
    program::check(&mut command, LIMIT)?;
    Ok(())
}
