//! Processes which count under a lock: no increment may be lost, within a mount and between mounts.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use rustix::fs::{FlockOperation, fcntl_lock, flock};

use crate::lab::{Lab, Variant, matrix};
use crate::program;
use crate::tally::Tally;

const INCREMENTS: u32 = 10_000;

/// Processes on each of the directories.
const PROCESSES: u32 = 2;

const LIMIT: Duration = Duration::from_secs(240);

/// Count in a file under a lock: what the suite `locks` starts many times
#[derive(Args)]
#[command(hide = true)]
pub(crate) struct Count {
    lock: Lock,
    file: PathBuf,
    times: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Lock {
    Fcntl,
    Flock,
}

impl Count {
    pub(crate) fn run(self) -> Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(&self.file)?;
        for _ in 0..self.times {
            self.lock.apply(&file, FlockOperation::LockExclusive)?;
            let mut number = [0; 8];
            file.read_exact_at(&mut number, 0)?;
            let number = u64::from_le_bytes(number) + 1;
            file.write_all_at(&number.to_le_bytes(), 0)?;
            self.lock.apply(&file, FlockOperation::Unlock)?;
        }
        Ok(())
    }
}

impl Lock {
    fn apply(self, file: &fs::File, operation: FlockOperation) -> Result<()> {
        match self {
            Self::Fcntl => fcntl_lock(file, operation)?,
            Self::Flock => flock(file, operation)?,
        }
        Ok(())
    }
}

pub(crate) fn run(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let native = lab.directory()?;
    for lock in [Lock::Fcntl, Lock::Flock] {
        count(lock, native.path(), &[native.path(), native.path()])
            .with_context(|| format!("{lock:?} fails on the native directory"))?;
    }
    // What another mount writes is seen only without a cache.
    for variant in matrix(&["never"]) {
        for lock in [Lock::Fcntl, Lock::Flock] {
            let name = format!("[{}] {lock:?}, ", variant.name());
            tally.count(&format!("{name}two mounts"), two_mounts(lab, &variant, lock));
            tally.count(
                &format!("{name}one mount and the host"),
                mount_and_host(lab, &variant, lock),
            );
        }
    }
    Ok(())
}

fn two_mounts(lab: &Lab, variant: &Variant, lock: Lock) -> Result<()> {
    let first = lab.serve(variant)?;
    let second = lab.serve_dir(Rc::clone(&first.dir), variant)?;
    count(lock, first.dir.path(), &[first.path(), second.path()])?;
    second.stop()?;
    first.stop()
}

fn mount_and_host(lab: &Lab, variant: &Variant, lock: Lock) -> Result<()> {
    let served = lab.serve(variant)?;
    count(lock, served.dir.path(), &[served.path(), served.dir.path()])?;
    served.stop()
}

/// Counts in one file of `dir`, seen by several processes in each of `views`.
fn count(lock: Lock, dir: &Path, views: &[&Path]) -> Result<()> {
    let file = dir.join("number");
    fs::write(&file, 0u64.to_le_bytes())?;
    let times = INCREMENTS / (PROCESSES * views.len() as u32);

    let counters = views.iter().flat_map(|view| (0..PROCESSES).map(move |_| view.join("number")));
    let outcomes: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> =
            counters.map(|file| scope.spawn(move || start(lock, &file, times))).collect();
        running.into_iter().map(|counter| counter.join().expect("a counter panicked")).collect()
    });
    outcomes.into_iter().collect::<Result<()>>()?;

    let number = fs::read(&file)?;
    let number =
        u64::from_le_bytes(number.as_slice().try_into().context("the file changed its size")?);
    fs::remove_file(&file)?;
    if number != u64::from(INCREMENTS) {
        bail!("{INCREMENTS} increments made {number}");
    }
    Ok(())
}

fn start(lock: Lock, file: &Path, times: u32) -> Result<()> {
    let name = lock.to_possible_value().context("a lock without a name")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["count", name.get_name()]).arg(file).arg(times.to_string());
    program::check(&mut command, LIMIT)?;
    Ok(())
}
