//! Metadata rows: one thread, many small files in one directory, one step after the other.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, chmodat, mkdirat, open, openat, renameat, statat, unlinkat,
};
use rustix::io::{Errno, read, write};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Sample;
use crate::process;

const BLOCK: usize = 4096;
/// Steps that leave the files as they were are repeated for at least this long.
const REPEATED: Duration = Duration::from_millis(300);

#[derive(Args)]
pub(crate) struct Options {
    /// Made by this load if `create` is a step, and left empty only if `unlink` is one
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    files: usize,
    /// In the order in which they run
    #[arg(long, value_delimiter = ',')]
    steps: Vec<String>,
    /// How often to repeat steps that leave the files as they were; without it, for a while
    #[arg(long)]
    passes: Option<usize>,
    /// Where it runs
    #[arg(long)]
    cpu: Option<usize>,
    #[arg(long)]
    server_pid: Option<u32>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(cpu) = options.cpu {
        let mut only = CpuSet::new();
        only.set(cpu);
        sched_setaffinity(None, &only).context("cannot stay on one CPU")?;
    }
    let files = Files::new(options)?;
    for step in &options.steps {
        let cpu = options.server_pid.map(process::cpu_seconds).transpose()?;
        let start = Instant::now();
        let operations = files.step(step).with_context(|| format!("step {step}"))? as f64;
        let seconds = start.elapsed().as_secs_f64();
        let cpu_seconds = match (options.server_pid, cpu) {
            (Some(pid), Some(before)) => Some(process::cpu_seconds(pid)? - before),
            _ => None,
        };
        Sample { value: operations / seconds, operations, cpu_seconds }.print(step);
    }
    Ok(())
}

struct Files {
    dir: OwnedFd,
    names: Vec<CString>,
    renamed: Vec<CString>,
    absent: Vec<CString>,
    will_rename: bool,
    passes: Option<usize>,
}

impl Files {
    fn new(options: &Options) -> Result<Self> {
        if options.steps.iter().any(|step| step == "create") {
            mkdirat(CWD, &options.dir, Mode::from(0o755))
                .context("cannot make the directory of small files")?;
        }
        let dir = open(
            &options.dir,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let names = |prefix: &str| {
            (0..options.files)
                .map(|number| CString::new(format!("{prefix}{number:06}")))
                .collect::<Result<Vec<_>, _>>()
        };
        let will_rename = options.steps.iter().any(|step| step == "rename");
        Ok(Files {
            dir,
            names: names("file")?,
            renamed: names("moved")?,
            absent: names("absent")?,
            will_rename,
            passes: options.passes,
        })
    }

    /// How many operations it took.
    fn step(&self, step: &str) -> Result<usize> {
        match step {
            "create" => each(&self.names, |name| self.create(name)),
            "write" => self.repeat(|_| each(&self.names, |name| self.write(name))),
            "read" => self.repeat(|_| each(&self.names, |name| self.read(name))),
            "stat" => self.repeat(|_| each(&self.names, |name| self.stat(name))),
            "cycle" => self.repeat(|_| each(&self.absent, |name| self.cycle(name))),
            "negative" => self.repeat(|_| each(&self.absent, |name| self.look_up_absent(name))),
            "chmod" => self.repeat(|pass| each(&self.names, |name| self.chmod(name, pass))),
            "readdir" => self.repeat(|_| self.readdir()),
            "scan" => self.repeat(|_| self.change().and_then(|()| self.readdir())),
            "rename" => self.rename(),
            "unlink" => {
                let names = if self.will_rename { &self.renamed } else { &self.names };
                each(names, |name| Ok(unlinkat(&self.dir, name, AtFlags::empty())?))
            }
            other => bail!("no step is called {other}"),
        }
    }

    fn create(&self, name: &CString) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(&self.dir, name, flags, Mode::from(0o644))?;
        Ok(())
    }

    fn write(&self, name: &CString) -> Result<()> {
        let file = openat(&self.dir, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        ensure!(write(&file, &[1; BLOCK])? == BLOCK, "short write");
        Ok(())
    }

    fn read(&self, name: &CString) -> Result<()> {
        let file = openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut block = [0; BLOCK];
        read(&file, &mut block)?;
        Ok(())
    }

    fn stat(&self, name: &CString) -> Result<()> {
        statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn cycle(&self, name: &CString) -> Result<()> {
        self.create(name)?;
        Ok(unlinkat(&self.dir, name, AtFlags::empty())?)
    }

    fn look_up_absent(&self, name: &CString) -> Result<()> {
        match statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Ok(_) => bail!("an absent file was found"),
            Err(error) => Err(error.into()),
        }
    }

    /// Alternates, so that every call changes the mode.
    fn chmod(&self, name: &CString, pass: usize) -> Result<()> {
        let mode = if pass.is_multiple_of(2) { 0o600 } else { 0o644 };
        Ok(chmodat(&self.dir, name, Mode::from(mode), AtFlags::empty())?)
    }

    fn readdir(&self) -> Result<usize> {
        let mut entries = 0;
        for entry in Dir::read_from(&self.dir)? {
            entry?;
            entries += 1;
        }
        ensure!(
            entries >= self.names.len(),
            "readdir lost {} of {} names",
            self.names.len() - entries,
            self.names.len()
        );
        Ok(entries)
    }

    /// Makes the kernel forget the listing that it holds.
    fn change(&self) -> Result<()> {
        self.cycle(&self.absent[0])
    }

    fn rename(&self) -> Result<usize> {
        for (from, to) in self.names.iter().zip(&self.renamed) {
            renameat(&self.dir, from, &self.dir, to)?;
        }
        Ok(self.names.len())
    }

    /// Passes over all files as often as wanted, or until the time is up; `pass` is told its number.
    fn repeat(&self, pass: impl Fn(usize) -> Result<usize>) -> Result<usize> {
        let start = Instant::now();
        let mut operations = 0;
        for number in 0.. {
            operations += pass(number)?;
            let is_done = match self.passes {
                Some(passes) => number + 1 >= passes,
                None => start.elapsed() >= REPEATED,
            };
            if is_done {
                break;
            }
        }
        Ok(operations)
    }
}

fn each(names: &[CString], operation: impl Fn(&CString) -> Result<()>) -> Result<usize> {
    names.iter().try_for_each(operation)?;
    Ok(names.len())
}
