//! Lookups of absent names in a hot directory at a steady rate, and the slowest of a hundred of them: alone, beside a reader
//! of cold data, or beside unlinks that take long.
//!
//! The rate is kept whatever the server does, and a lookup's time counts from when it was due: a server that stands still for
//! 100 ms spoils every lookup that was due meanwhile, not one.

use std::ffi::CString;
use std::fs::{self, File};
use std::num::NonZeroU64;
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

/// Half of what the slowest peer answers, so that no queue grows in a server that stands well.
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
    let done = AtomicBool::new(false);
    let mut times = thread::scope(|scope| {
        let neighbour = scope.spawn(|| match (&options.cold, &options.cold_native) {
            (Some(file), Some(native)) => read_cold(file, native, &done),
            _ if !options.unlink.is_empty() => unlink(&options.unlink, &done),
            _ => Ok(()),
        });
        let times = look_up(options, &done);
        done.store(true, Ordering::Relaxed);
        neighbour.join().map_err(|_| anyhow!("the neighbour panicked"))??;
        times
    })?;
    if times.is_empty() {
        bail!("no lookup was made in time");
    }
    times.sort_unstable();
    let p99 = times[(times.len() - 1) * 99 / 100];
    Sample { value: p99.as_secs_f64() * 1e6, operations: times.len() as f64, cpu_seconds: None }
        .print("tail");
    Ok(())
}

fn look_up(options: &Options, done: &AtomicBool) -> Result<Vec<Duration>> {
    let dir =
        open(&options.dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let names = (0..1000)
        .map(|number| CString::new(format!("absent{number}")))
        .collect::<Result<Vec<_>, _>>()?;
    let limit = Duration::from_secs(options.seconds);
    let start = Instant::now();
    let mut times = Vec::new();
    for (number, name) in (0..).zip(names.iter().cycle()) {
        let due = INTERVAL * number;
        if due >= limit || done.load(Ordering::Relaxed) {
            break;
        }
        // No sleep: its wake-up would be measured too.
        while start.elapsed() < due {
            std::hint::spin_loop();
        }
        match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => times.push(start.elapsed() - due),
            Err(error) => return Err(error.into()),
            Ok(_) => bail!("an absent file was found"),
        }
    }
    Ok(times)
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
