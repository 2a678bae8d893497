//! A tree of many empty files, and a walk that looks up each of them by name.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, open, openat, statat};

use super::Sample;

const FILES_IN_A_DIRECTORY: usize = 1000;

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    files: usize,
}

pub(crate) fn make(dir: &Path, files: usize) -> Result<()> {
    for (number, directory) in directories(dir, files).enumerate() {
        mkdirat(CWD, &directory, Mode::from(0o755))?;
        let directory =
            open(&directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for name in names(number, files) {
            openat(
                &directory,
                name,
                OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC,
                Mode::from(0o644),
            )?;
        }
    }
    Ok(())
}

pub(crate) fn walk(options: &Options) -> Result<()> {
    let mut seen = 0;
    for (number, directory) in directories(&options.dir, options.files).enumerate() {
        let directory =
            open(&directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        seen += 1;
        for name in names(number, options.files) {
            statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            seen += 1;
        }
    }
    Sample { value: 0.0, operations: f64::from(seen), cpu_seconds: None }.print("walk");
    Ok(())
}

fn directories(dir: &Path, files: usize) -> impl Iterator<Item = PathBuf> {
    (0..files.div_ceil(FILES_IN_A_DIRECTORY)).map(move |number| dir.join(format!("d{number}")))
}

/// The names in the directory of this number.
fn names(directory: usize, files: usize) -> impl Iterator<Item = String> {
    let first = directory * FILES_IN_A_DIRECTORY;
    (first..files.min(first + FILES_IN_A_DIRECTORY)).map(|number| format!("f{number}"))
}
