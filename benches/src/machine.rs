//! The machine, its description and its one setting that decides latency rows.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::undo::Undo;

const HALT_POLL: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";

/// Sets how long an idle CPU polls before it halts, until dropped. With 0 a wake-up on another CPU costs tens of microseconds.
pub(crate) struct HaltPoll {
    _undo: Undo,
}

/// With which settings rows are measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HaltPolling {
    #[value(name = "0")]
    Off,
    #[value(name = "200000")]
    On,
    Both,
}

impl HaltPolling {
    /// What to set, one after the other; none if it cannot be set here.
    pub(crate) fn settings(self) -> Vec<Option<u32>> {
        if !HaltPoll::available() {
            eprintln!("this machine has no halt polling to set: latency rows are measured once");
            return vec![None];
        }
        match self {
            HaltPolling::Off => vec![Some(0)],
            HaltPolling::On => vec![Some(200_000)],
            HaltPolling::Both => vec![Some(0), Some(200_000)],
        }
    }
}

impl HaltPoll {
    fn available() -> bool {
        Path::new(HALT_POLL).exists()
    }

    pub(crate) fn set(nanoseconds: u32) -> Result<Self> {
        let before =
            fs::read_to_string(HALT_POLL).context("this machine has no halt polling to set")?;
        let undo = Undo::new(move || {
            if fs::write(HALT_POLL, before.trim()).is_err() {
                eprintln!("cannot restore {HALT_POLL} to {}", before.trim());
            }
        });
        fs::write(HALT_POLL, nanoseconds.to_string()).context("cannot set halt polling")?;
        Ok(HaltPoll { _undo: undo })
    }
}

/// One line for the head of a table.
pub(crate) fn describe(scratch: &Path) -> String {
    let cpu = value_in("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown CPU".into());
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = value_in("/proc/meminfo", "MemTotal")
        .and_then(|kib| kib.trim_end_matches("kB").trim().parse::<u64>().ok())
        .map_or(0, |kib| kib.div_ceil(1 << 20));
    let disk = filesystem_of(scratch).unwrap_or_else(|| "unknown".into());
    format!("{cpu}, {cores} CPUs, {memory} GiB; Linux {}; data rows on {disk}.", kernel.trim())
}

fn value_in(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let (_, value) = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)?;
    Some(value.trim().to_owned())
}

/// The type of the filesystem that holds `path`: the longest mount point above it, the newest of equals.
fn filesystem_of(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let above = mounts.lines().filter_map(|line| {
        let point = line.split(' ').nth(4)?;
        let kind = line.split_once(" - ")?.1.split(' ').next()?;
        path.starts_with(point).then_some((point.len(), kind))
    });
    above.max_by_key(|(length, _)| *length).map(|(_, kind)| kind.to_owned())
}
