//! Lookups of absent names in a hot directory at a steady rate, and the slowest of a hundred of them: alone, beside a reader
//! of cold data, or beside unlinks that take long.
//!
//! A lookup that takes long stands for all that were due meanwhile: a server that stands still for 100 ms spoils 500 lookups,
//! not one.

use std::ffi::CString;
use std::fs::{self, File};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use rustix::fs::{Advice, AtFlags, Mode, OFlags, fadvise, open, statat};
use rustix::io::Errno;

use super::Sample;

/// More than the slowest peer takes, so that no lookup waits for the one before.
const INTERVAL: Duration = Duration::from_micros(200);
const BLOCK: usize = 4096;
/// A server may free an unlinked file after its answer: look on for this long.
const AFTER_UNLINK: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(crate) struct Options {
    /// The hot directory
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    seconds: u64,
    /// Read this file, cold, meanwhile
    #[arg(long, requires = "cold_native")]
    cold: Option<PathBuf>,
    /// The same file below the server, to drop it from the host's cache
    #[arg(long)]
    cold_native: Option<PathBuf>,
    /// Unlink these meanwhile; the lookups end with it
    #[arg(long, value_delimiter = ',', conflicts_with = "cold")]
    unlink: Vec<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    // Opened first: the server may already stand still when the neighbour has begun.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = open(&options.dir, flags, Mode::empty())?;
    let limit = Duration::from_secs(options.seconds);
    let done = AtomicBool::new(false);
    let mut times = thread::scope(|scope| {
        let neighbour = scope.spawn(|| match (&options.cold, &options.cold_native) {
            (Some(file), Some(native)) => read_cold(file, native, &done),
            _ if !options.unlink.is_empty() => unlink(&options.unlink, &done),
            _ => Ok(()),
        });
        let times = look_up(&dir, limit, &done);
        done.store(true, Ordering::Relaxed);
        neighbour.join().map_err(|_| anyhow!("the neighbour panicked"))??;
        times
    })?;
    times.sort_unstable();
    let p99 = times[(times.len() - 1) * 99 / 100];
    Sample { value: p99.as_secs_f64() * 1e6, operations: times.len() as f64, cpu_seconds: None }
        .print("tail");
    Ok(())
}

fn look_up(dir: &OwnedFd, limit: Duration, done: &AtomicBool) -> Result<Vec<Duration>> {
    let names = (0..1000)
        .map(|number| CString::new(format!("absent{number}")))
        .collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    let mut times = Vec::new();
    for name in names.iter().cycle() {
        // A loop without a pause would have to share its CPU, and would measure the scheduler.
        thread::sleep(INTERVAL);
        let begin = Instant::now();
        match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => add(&mut times, begin.elapsed()),
            Err(error) => return Err(error.into()),
            Ok(_) => bail!("an absent file was found"),
        }
        if start.elapsed() >= limit || done.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(times)
}

/// Adds what a lookup took, and what those would have taken that were due meanwhile.
fn add(times: &mut Vec<Duration>, took: Duration) {
    times.push(took);
    let mut left = took;
    while left > INTERVAL {
        left -= INTERVAL;
        times.push(left);
    }
}

/// Reads blocks all over the file, each dropped from both caches before.
fn read_cold(path: &Path, native: &Path, done: &AtomicBool) -> Result<()> {
    let (file, native) = (File::open(path)?, File::open(native)?);
    for file in [&file, &native] {
        fadvise(file, 0, None, Advice::Random)?;
    }
    let blocks = file.metadata()?.len() / BLOCK as u64;
    let mut buffer = [0; BLOCK];
    let mut block = 0;
    while !done.load(Ordering::Relaxed) {
        // A stride that is odd and larger than any read-ahead visits every block of a file of 2^n blocks.
        block = (block + 10_007) % blocks;
        let offset = block * BLOCK as u64;
        for file in [&file, &native] {
            fadvise(file, offset, NonZeroU64::new(BLOCK as u64), Advice::DontNeed)?;
        }
        file.read_exact_at(&mut buffer, offset)?;
    }
    Ok(())
}

fn unlink(files: &[PathBuf], done: &AtomicBool) -> Result<()> {
    for file in files {
        fs::remove_file(file)?;
    }
    thread::sleep(AFTER_UNLINK);
    done.store(true, Ordering::Relaxed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_lookup_stands_for_those_that_were_due_meanwhile() {
        let mut times = Vec::new();
        add(&mut times, INTERVAL / 2);
        assert_eq!(times.len(), 1);
        add(&mut times, INTERVAL * 500);
        assert_eq!(times.len(), 1 + 500);
        assert_eq!(times.iter().max(), Some(&(INTERVAL * 500)));
    }
}
