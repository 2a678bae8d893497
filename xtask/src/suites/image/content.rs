//! Content that is written to an export and to a file beside it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate};

/// The longest write: more than one request.
const LONGEST: u64 = 3 << 19;

/// Numbers that look random and are the same each time.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One of `0..limit`; by the generator SplitMix64.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % limit
    }
}

/// Does the same to two files.
pub(super) struct Mirror {
    files: [File; 2],
    size: u64,
    random: Random,
}

impl Mirror {
    pub(super) fn new(export: &Path, beside: &Path) -> Result<Self> {
        let open = |path| File::options().read(true).write(true).open(path);
        let files = [open(export)?, open(beside)?];
        let size = files[0].metadata()?.len();
        ensure!(size == files[1].metadata()?.len(), "the export has {size} bytes");
        Ok(Self { files, size, random: Random::new(99) })
    }

    /// Changes so many parts, and reads some back.
    pub(super) fn run(mut self, operations: u32) -> Result<()> {
        for number in 0..operations {
            self.step(number).with_context(|| format!("operation {number}"))?;
        }
        Ok(self.files[0].sync_all()?)
    }

    fn step(&mut self, number: u32) -> Result<()> {
        let (at, len) = self.part();
        match self.random.below(16) {
            0 => self.allocate(FallocateFlags::PUNCH_HOLE, at, len),
            1 => self.allocate(FallocateFlags::ZERO_RANGE, at, len),
            2 => Ok(self.files[0].sync_data()?),
            3..=5 => self.compare(at, len),
            _ => self.write(number, at, len),
        }
    }

    /// Any place; most are short, and half of them lie as a disk's blocks do.
    fn part(&mut self) -> (u64, u64) {
        let longest = if self.random.below(8) == 0 { LONGEST } else { 64 << 10 };
        let len = 1 + self.random.below(longest);
        let at = self.random.below(self.size - len - 4096);
        if self.random.below(2) == 0 { (at & !4095, (len + 4095) & !4095) } else { (at, len) }
    }

    fn write(&self, number: u32, at: u64, len: u64) -> Result<()> {
        // Where a byte lies, and which write it is of, show in it.
        let byte = |place: u64| ((place >> 9) ^ place ^ u64::from(number)) as u8;
        let data: Vec<u8> = (at..at + len).map(byte).collect();
        self.files.iter().try_for_each(|file| file.write_all_at(&data, at))?;
        Ok(())
    }

    fn allocate(&self, mode: FallocateFlags, at: u64, len: u64) -> Result<()> {
        let mode = mode | FallocateFlags::KEEP_SIZE;
        self.files.iter().try_for_each(|file| fallocate(file, mode, at, len))?;
        Ok(())
    }

    fn compare(&self, at: u64, len: u64) -> Result<()> {
        let [export, beside] = self.files.each_ref().map(|file| {
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, at).map(|()| bytes)
        });
        ensure!(export? == beside?, "{len} bytes at {at} differ");
        Ok(())
    }
}
