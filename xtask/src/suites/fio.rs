//! fio: blocks with checksums, written in random order and read back.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::yardstick::{Case, compare};
use crate::lab::Lab;
use crate::program;
use crate::tally::Tally;

const LIMIT: Duration = Duration::from_secs(300);

pub(super) const EVERY_JOB: [&str; 9] = [
    "--verify=crc32c",
    "--verify_fatal=1",
    "--do_verify=1",
    "--randrepeat=1",
    "--bssplit=4k/60:64k/30:1m/10",
    "--blockalign=4k",
    "--fallocate=none",
    "--output-format=json",
    "--name=verify",
];

/// A name, and the arguments that differ.
const JOBS: [(&str, &[&str]); 6] = [
    ("buffered", &["--rw=randwrite", "--ioengine=psync"]),
    ("buffered, read while writing", &["--rw=randrw", "--ioengine=psync", "--fsync=64"]),
    ("mapped", &["--rw=randwrite", "--ioengine=mmap"]),
    ("direct, libaio", &["--rw=randwrite", "--ioengine=libaio", "--direct=1", "--iodepth=16"]),
    ("direct, io_uring", &["--rw=randwrite", "--ioengine=io_uring", "--direct=1", "--iodepth=16"]),
    ("direct, psync", &["--rw=randrw", "--ioengine=psync", "--direct=1"]),
];

pub(crate) fn run(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let size = if lab.full { "--size=256m" } else { "--size=48m" };
    let job = |(name, args): &(&str, &'static [&str])| {
        let args = *args;
        Case::new(*name, move |dir: &Path| verify(dir, size, args))
    };
    let cases: Vec<_> = JOBS.iter().map(job).collect();

    compare(lab, &lab.data_variants(), &cases, tally)
}

/// Returns how many bytes were written and read back.
fn verify(dir: &Path, size: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new("fio");
    command.args(EVERY_JOB).args(["--filename=file", size]).args(args).current_dir(dir);
    let report: Value = serde_json::from_str(&program::check(&mut command, LIMIT)?)?;
    let job = report.pointer("/jobs/0").context("fio reported no job")?;
    if job["error"] != 0 {
        bail!("fio reported error {}", job["error"]);
    }
    let (written, read) = (&job["write"]["io_bytes"], &job["read"]["io_bytes"]);
    if read.as_u64().unwrap_or(0) == 0 {
        bail!("fio verified nothing");
    }
    Ok(format!("{written} bytes written, {read} read"))
}
