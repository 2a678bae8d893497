//! Random O_DIRECT operations on one file, against a model in memory.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Result, bail, ensure};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use rustix::fs::{FallocateFlags, OFlags, fallocate};

use crate::seeds;
use crate::served::{Served, THREADS_NEVER, URING_PREFER, directory};

/// What every disk accepts as alignment of memory, offset and length.
const BLOCK: usize = 4096;

/// The file has at most this many blocks: more than one request of 1 MiB.
const BLOCKS: usize = 384;

/// In blocks, but for the size, which is in bytes.
#[derive(Clone, Debug)]
enum Op {
    Read {
        at: usize,
        len: usize,
    },
    Write {
        at: usize,
        len: usize,
        fill: u8,
    },
    Truncate {
        size: usize,
    },
    Punch {
        at: usize,
        len: usize,
    },
    Zero {
        at: usize,
        len: usize,
    },
    Reopen,
    /// The page cache must not keep what direct writes replaced.
    BufferedRead {
        at: usize,
        len: usize,
    },
    BufferedWrite {
        at: usize,
        len: usize,
        fill: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let range = || {
        (0..BLOCKS, prop_oneof![4 => 1..16usize, 1 => 1..BLOCKS])
            .prop_map(|(at, len)| (at, len.min(BLOCKS - at)))
    };
    prop_oneof![
        6 => range().prop_map(|(at, len)| Op::Read { at, len }),
        6 => (range(), any::<u8>()).prop_map(|((at, len), fill)| Op::Write { at, len, fill }),
        2 => (0..=BLOCKS * BLOCK).prop_map(|size| Op::Truncate { size }),
        1 => (0..=BLOCKS).prop_map(|blocks| Op::Truncate { size: blocks * BLOCK }),
        2 => range().prop_map(|(at, len)| Op::Punch { at, len }),
        1 => range().prop_map(|(at, len)| Op::Zero { at, len }),
        1 => Just(Op::Reopen),
        2 => range().prop_map(|(at, len)| Op::BufferedRead { at, len }),
        1 => (range(), any::<u8>()).prop_map(|((at, len), fill)| Op::BufferedWrite { at, len, fill }),
    ]
}

/// A file that is open twice, and what it should hold.
struct Subject {
    direct: File,
    buffered: File,
    model: Vec<u8>,
    memory: Aligned,
}

/// Memory that begins at a multiple of [`BLOCK`].
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Subject {
    fn new(path: &Path) -> Result<Self> {
        let _ = std::fs::remove_file(path);
        let memory = Aligned::new();
        Ok(Self {
            direct: open(path, OFlags::DIRECT)?,
            buffered: open(path, OFlags::empty())?,
            model: Vec::new(),
            memory,
        })
    }

    fn apply(&mut self, path: &Path, op: &Op) -> Result<()> {
        match *op {
            Op::Read { at, len } => {
                read(&self.direct, &mut self.memory, &self.model, at * BLOCK, len * BLOCK)?
            }
            Op::BufferedRead { at, len } => {
                read(&self.buffered, &mut self.memory, &self.model, at * BLOCK, len * BLOCK)?;
            }
            Op::Write { at, len, fill } => {
                write(
                    &self.direct,
                    &mut self.memory,
                    &mut self.model,
                    at * BLOCK,
                    pattern(len, fill),
                )?;
            }
            Op::BufferedWrite { at, len, fill } => {
                write(
                    &self.buffered,
                    &mut self.memory,
                    &mut self.model,
                    at * BLOCK,
                    pattern(len, fill),
                )?;
            }
            Op::Truncate { size } => {
                self.direct.set_len(size as u64)?;
                self.model.resize(size, 0);
            }
            Op::Punch { at, len } => {
                self.zero(
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    at * BLOCK,
                    len * BLOCK,
                )?;
            }
            Op::Zero { at, len } => {
                self.zero(
                    FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                    at * BLOCK,
                    len * BLOCK,
                )?;
            }
            Op::Reopen => self.direct = open(path, OFlags::DIRECT)?,
        }
        let size = self.direct.metadata()?.len() as usize;
        ensure!(size == self.model.len(), "the size is {size}, should be {}", self.model.len());
        Ok(())
    }

    fn zero(&mut self, flags: FallocateFlags, at: usize, len: usize) -> Result<()> {
        fallocate(&self.direct, flags, at as u64, len as u64)?;
        let end = (at + len).min(self.model.len());
        if at < end {
            self.model[at..end].fill(0);
        }
        Ok(())
    }
}

fn open(path: &Path, flags: OFlags) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(flags.bits() as i32);
    Ok(options.open(path)?)
}

fn read(file: &File, memory: &mut Aligned, model: &[u8], at: usize, len: usize) -> Result<()> {
    let expected = &model[at.min(model.len())..(at + len).min(model.len())];
    let buffer = memory.take(len);
    let mut filled = 0;
    // A read may be short before the end of the file, but what is left of it must still be aligned.
    while filled < expected.len() {
        let count = file.read_at(&mut buffer[filled..], (at + filled) as u64)?;
        ensure!(count > 0, "end of file at {}, should be at {}", at + filled, model.len());
        filled += count;
        if filled % BLOCK != 0 {
            break;
        }
    }
    ensure!(filled == expected.len(), "{filled} bytes at {at}, should be {}", expected.len());
    if buffer[..filled] == *expected {
        return Ok(());
    }
    let differ = |(expected, got)| expected != got;
    let wrong = expected.iter().zip(&*buffer).position(differ).unwrap_or(0);
    bail!("byte {} is {:#x}, should be {:#x}", at + wrong, buffer[wrong], expected[wrong])
}

fn write(
    file: &File,
    memory: &mut Aligned,
    model: &mut Vec<u8>,
    at: usize,
    data: Vec<u8>,
) -> Result<()> {
    let buffer = memory.take(data.len());
    buffer.copy_from_slice(&data);
    file.write_all_at(buffer, at as u64)?;
    let end = at + data.len();
    model.resize(model.len().max(end), 0);
    model[at..end].copy_from_slice(&data);
    Ok(())
}

/// Blocks that tell where they are, so that a block in the wrong place is seen.
fn pattern(blocks: usize, fill: u8) -> Vec<u8> {
    let mut bytes = vec![fill; blocks * BLOCK];
    for (number, block) in bytes.chunks_mut(BLOCK).enumerate() {
        block[..8].copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

impl Aligned {
    fn new() -> Self {
        let bytes = vec![0; (BLOCKS + 1) * BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, start }
    }

    fn take(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + len]
    }
}

/// Runs the cases in `dir`.
fn exercise(dir: &Path) {
    let file = dir.join("file");
    let mut runner = TestRunner::new(seeds::cases(48));
    let outcome = runner.run(&prop::collection::vec(op(), 1..120), |ops| {
        let mut subject = Subject::new(&file).map_err(fail)?;
        for (step, op) in ops.iter().enumerate() {
            subject
                .apply(&file, op)
                .map_err(|error| fail(error.context(format!("step {step}, {op:?}"))))?;
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

fn fail(error: anyhow::Error) -> TestCaseError {
    TestCaseError::fail(format!("{error:#}"))
}

fn on_mount(args: &[&str]) {
    let served = Served::new(args);
    exercise(served.mounted());
    served.stop();
}

#[test]
fn direct_io_on_the_native_directory() {
    exercise(directory().path());
}

#[test]
fn direct_io_with_uring_and_handles() {
    on_mount(&URING_PREFER);
}

#[test]
fn direct_io_with_threads_and_no_handles() {
    on_mount(&THREADS_NEVER);
}

#[test]
fn direct_io_reaches_the_disk_with_uring() {
    on_mount(&[&URING_PREFER[..], &["--allow-direct-io"]].concat());
}

#[test]
fn direct_io_reaches_the_disk_with_threads() {
    on_mount(&[&THREADS_NEVER[..], &["--allow-direct-io"]].concat());
}

#[test]
fn direct_io_without_a_cache() {
    on_mount(&["--cache", "never"]);
}
