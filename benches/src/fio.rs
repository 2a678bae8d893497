//! The data rows: fio, on files that exist already.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::client;
use crate::load::Sample;
use crate::process;
use crate::subject::Running;

/// How fio reads or writes.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    /// In fio's words.
    pub(crate) rw: &'static str,
    pub(crate) engine: Engine,
    pub(crate) jobs: u16,
    pub(crate) block: u64,
}

#[derive(Clone, Copy)]
pub(crate) enum Engine {
    Calls,
    Mapped,
    /// O_DIRECT, so many at once.
    Direct(u16),
}

#[derive(Clone, Copy)]
pub(crate) enum Amount {
    Seconds(u64),
    /// For work that is not to be repeated.
    Mib(u64),
}

pub(crate) struct Work<'a> {
    pub(crate) job: Job,
    pub(crate) file: &'a Path,
    pub(crate) mib: u64,
    pub(crate) amount: Amount,
}

pub(crate) const SMALL: u64 = 4096;
pub(crate) const LARGE: u64 = 1 << 20;
/// How long work that is not limited by time may take.
const AMOUNT_LIMIT: u64 = 120;

impl Job {
    /// That of a row of mount points.
    pub(crate) fn of_row(key: &str) -> Result<Self> {
        let (rw, engine, jobs, block) = match key {
            "randread" => ("randread", Engine::Calls, 1, SMALL),
            "randread-4jobs" => ("randread", Engine::Calls, 4, SMALL),
            "mmapread" => ("randread", Engine::Mapped, 1, SMALL),
            "direct" => ("randread", Engine::Direct(16), 1, SMALL),
            "seqread" => ("read", Engine::Calls, 1, LARGE),
            "seqwrite" => ("write", Engine::Calls, 1, LARGE),
            "randwrite" => ("randwrite", Engine::Calls, 1, SMALL),
            other => anyhow::bail!("fio has no row {other}"),
        };
        Ok(Job { rw, engine, jobs, block })
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--rw={}", self.rw),
            format!("--numjobs={}", self.jobs),
            format!("--bs={}", self.block),
        ];
        arguments.extend(match self.engine {
            Engine::Calls => vec!["--ioengine=psync".into()],
            Engine::Mapped => vec!["--ioengine=mmap".into()],
            Engine::Direct(depth) => {
                vec!["--ioengine=libaio".into(), "--direct=1".into(), format!("--iodepth={depth}")]
            }
        });
        arguments
    }

    /// In operations a second, or of large ones in MiB a second.
    fn value(&self, bytes: f64, seconds: f64) -> f64 {
        let unit = if self.block == SMALL { SMALL } else { 1 << 20 };
        bytes / seconds / unit as f64
    }
}

impl Amount {
    fn arguments(self) -> Vec<String> {
        match self {
            Amount::Seconds(seconds) => vec!["--time_based".into(), format!("--runtime={seconds}")],
            Amount::Mib(mib) => vec![format!("--io_size={mib}m")],
        }
    }

    fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Amount::Seconds(seconds) => seconds + 30,
            Amount::Mib(_) => AMOUNT_LIMIT,
        })
    }
}

/// Does the work on a file of `mib` MiB that exists.
pub(crate) fn run(work: &Work<'_>, running: &Running) -> Result<Sample> {
    let mut command = Command::new("fio");
    command
        .args(["--name=row", "--minimal", "--group_reporting", "--thread"])
        // Less clock reading; no map of blocks already read; and fio must not empty the page cache: the rows are warm.
        .args(["--gtod_reduce=1", "--norandommap", "--invalidate=0", "--fallocate=none"])
        .args(work.job.arguments())
        .args(work.amount.arguments())
        .arg(format!("--filename={}", work.file.display()))
        .arg(format!("--size={}m", work.mib));

    let before = running.pid.map(process::cpu_seconds).transpose()?;
    let output = client::run(&mut command, running.pidfd.as_ref(), work.amount.limit())?;
    let after = running.pid.map(process::cpu_seconds).transpose()?;

    let total = Total::parse(&output).with_context(|| format!("fio said: {}", output.trim()))?;
    let bytes = total.kib as f64 * 1024.0;
    let seconds = total.milliseconds as f64 / 1000.0;
    Ok(Sample {
        value: work.job.value(bytes, seconds),
        operations: bytes / work.job.block as f64,
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
