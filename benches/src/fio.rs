//! The data rows: fio, on files that exist already.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::client;
use crate::load::Sample;
use crate::process;
use crate::subject::Running;

pub(crate) struct Work<'a> {
    /// The row's name.
    pub(crate) key: &'a str,
    pub(crate) file: &'a Path,
    pub(crate) mib: u64,
    pub(crate) seconds: u64,
}

/// Runs one row for the given time on a file of `mib` MiB.
pub(crate) fn run(work: &Work<'_>, running: &Running) -> Result<Sample> {
    let (arguments, block): (&[&str], u64) = match work.key {
        "randread" => (&["--rw=randread", "--ioengine=psync"], 4096),
        "randread-4jobs" => (&["--rw=randread", "--ioengine=psync", "--numjobs=4"], 4096),
        "mmapread" => (&["--rw=randread", "--ioengine=mmap"], 4096),
        "direct" => (&["--rw=randread", "--ioengine=libaio", "--direct=1", "--iodepth=16"], 4096),
        "direct-d32" => {
            (&["--rw=randread", "--ioengine=libaio", "--direct=1", "--iodepth=32"], 4096)
        }
        "seqread" => (&["--rw=read", "--ioengine=psync"], 1 << 20),
        "seqwrite" => (&["--rw=write", "--ioengine=psync"], 1 << 20),
        "randwrite" => (&["--rw=randwrite", "--ioengine=psync"], 4096),
        other => anyhow::bail!("fio has no row {other}"),
    };
    let mut command = Command::new("fio");
    command
        .args(["--name=row", "--minimal", "--group_reporting", "--thread", "--time_based"])
        // Less clock reading; no map of blocks already read; and fio must not empty the page cache: the rows are warm.
        .args(["--gtod_reduce=1", "--norandommap", "--invalidate=0", "--fallocate=none"])
        .args(arguments)
        .arg(format!("--filename={}", work.file.display()))
        .arg(format!("--size={}m", work.mib))
        .arg(format!("--runtime={}", work.seconds))
        .arg(format!("--bs={block}"));

    let before = running.pid.map(process::cpu_seconds).transpose()?;
    let limit = Duration::from_secs(work.seconds + 30);
    let output = client::run(&mut command, running.pidfd.as_ref(), limit)?;
    let after = running.pid.map(process::cpu_seconds).transpose()?;

    let total = Total::parse(&output).with_context(|| format!("fio said: {}", output.trim()))?;
    let bytes = total.kib as f64 * 1024.0;
    let seconds = total.milliseconds as f64 / 1000.0;
    let operations = bytes / block as f64;
    let value =
        if block == 4096 { operations / seconds } else { bytes / seconds / f64::from(1 << 20) };
    Ok(Sample {
        value,
        operations,
        cpu_seconds: after.zip(before).map(|(after, before)| after - before),
    })
}

/// Of fio's terse format, version 3.
struct Total {
    kib: u64,
    milliseconds: u64,
}

impl Total {
    fn parse(output: &str) -> Option<Self> {
        // Fields from 5 on are of reads, from 46 on the same of writes: KiB, KiB a second, operations a second, milliseconds.
        const READS: usize = 5;
        const WRITES: usize = 46;
        let line = output.lines().find(|line| line.starts_with("3;"))?;
        let fields: Vec<&str> = line.split(';').collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        [READS, WRITES].into_iter().find_map(|at| {
            let total = Total { kib: number(at)?, milliseconds: number(at + 3)? };
            (total.kib > 0 && total.milliseconds > 0).then_some(total)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_found_behind_empty_reads() {
        let mut fields = vec!["0"; 60];
        fields[0] = "3";
        fields[46] = "4096";
        fields[49] = "2000";
        let total = Total::parse(&fields.join(";")).unwrap();
        assert_eq!((total.kib, total.milliseconds), (4096, 2000));
    }

    #[test]
    fn an_error_message_is_no_total() {
        assert!(Total::parse("fio: cannot open file").is_none());
    }
}
