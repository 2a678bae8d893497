//! A tree of files whose every byte and attribute follows from its number, so that it can be verified without a copy.

mod pattern;
mod walk;

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::abi::Attr;
use crate::error::{Error, Result};
pub use pattern::Pattern;
pub use walk::{Verified, verify};

const FILES_IN_A_DIRECTORY: u32 = 250;
const DIRECTORIES_IN_A_DIRECTORY: u32 = 16;
/// 2020-01-01, so that no file is from now.
const EPOCH: u64 = 1_577_836_800;

/// What a tree looks like.
#[derive(Clone, Debug)]
pub struct Shape {
    sizes: Vec<u64>,
}

impl Shape {
    /// So many files, with so many bytes together: some empty, some large, few of a round size.
    pub fn new(files: u32, bytes: u64) -> Self {
        let weights: Vec<u64> = (0..files).map(weight).collect();
        let total: u64 = weights.iter().sum::<u64>().max(1);
        let share =
            |weight: u64| (u128::from(bytes) * u128::from(weight) / u128::from(total)) as u64;
        let mut sizes: Vec<u64> = weights.into_iter().map(share).collect();
        let rest = bytes - sizes.iter().sum::<u64>();
        if let Some(last) = sizes.last_mut() {
            *last += rest;
        }
        Shape { sizes }
    }

    /// How many files it has.
    pub fn files(&self) -> u32 {
        self.sizes.len() as u32
    }

    /// How many bytes they have together.
    pub fn bytes(&self) -> u64 {
        self.sizes.iter().sum()
    }

    /// How many directories it has, without the one that it is in.
    pub fn directories(&self) -> u32 {
        let leaves = self.files().div_ceil(FILES_IN_A_DIRECTORY);
        leaves + leaves.div_ceil(DIRECTORIES_IN_A_DIRECTORY)
    }

    /// Makes it in a directory of the host.
    pub fn make(&self, root: &Path) -> Result<()> {
        let mut block = vec![0; 1 << 20];
        for number in 0..self.files() {
            let path = root.join(path(number));
            if number % FILES_IN_A_DIRECTORY == 0 {
                let parent = path.parent().unwrap_or(root);
                fs::create_dir_all(parent).map_err(Error::std("cannot make a directory"))?;
            }
            self.make_file(number, &path, &mut block).map_err(Error::std("cannot make a file"))?;
        }
        Ok(())
    }

    fn make_file(&self, number: u32, path: &Path, block: &mut [u8]) -> std::io::Result<()> {
        let mut file = File::create(path)?;
        let (size, pattern) = (self.sizes[number as usize], Pattern::new(number.into()));
        let mut offset = 0;
        while offset < size {
            let count = (block.len() as u64).min(size - offset) as usize;
            pattern.fill(offset, &mut block[..count]);
            file.write_all(&block[..count])?;
            offset += count as u64;
        }
        file.set_permissions(Permissions::from_mode(mode(number)))?;
        file.set_modified(mtime(number))
    }

    /// What is wrong with the attributes of a file.
    fn check_attributes(&self, number: u32, attr: &Attr) -> Result<()> {
        const REGULAR: u32 = 0o100000;
        let time = mtime(number).duration_since(UNIX_EPOCH).unwrap_or_default();
        let expected = (
            self.sizes[number as usize],
            REGULAR | mode(number),
            1,
            time.as_secs(),
            time.subsec_nanos(),
        );
        let got = (attr.size, attr.mode, attr.nlink, attr.mtime, attr.mtimensec);
        if got == expected {
            return Ok(());
        }
        let message = format!("file {number} has {got:?} instead of {expected:?}");
        Err(Error::Mismatch(message))
    }
}

/// The number in the name of a file of a tree.
fn number(name: &[u8]) -> Option<u32> {
    std::str::from_utf8(name.strip_prefix(b"f")?).ok()?.parse().ok()
}

fn path(number: u32) -> PathBuf {
    let leaf = number / FILES_IN_A_DIRECTORY;
    PathBuf::from(format!("d{}/s{leaf}/f{number}", leaf / DIRECTORIES_IN_A_DIRECTORY))
}

fn mode(number: u32) -> u32 {
    0o400 | (number * 7) & 0o377
}

fn mtime(number: u32) -> SystemTime {
    UNIX_EPOCH + Duration::new(EPOCH + u64::from(number) * 61, number % 1000 * 1_000_000 + number)
}

/// One of sixteen is empty, one of sixteen has half of the bytes.
fn weight(number: u32) -> u64 {
    let hash = pattern::mix(number.into());
    match hash % 16 {
        0 => 0,
        1 => 1 + (hash >> 32) % 60_000,
        _ => 1 + (hash >> 32) % 4_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_has_exactly_its_bytes() {
        let shape = Shape::new(50_000, 2 << 30);
        assert_eq!((shape.files(), shape.bytes()), (50_000, 2 << 30));
        assert!(shape.sizes.contains(&0));
        assert!(shape.sizes.iter().any(|size| *size > 1 << 18));
    }

    #[test]
    fn a_made_tree_has_the_attributes_and_bytes_of_its_shape() {
        let dir = tempfile::tempdir().unwrap();
        let shape = Shape::new(600, 3 << 20);
        shape.make(dir.path()).unwrap();
        for at in 0..600 {
            let path = dir.path().join(path(at));
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o7777, mode(at));
            assert_eq!(metadata.modified().unwrap(), mtime(at));
            let bytes = fs::read(&path).unwrap();
            assert_eq!(bytes.len() as u64, shape.sizes[at as usize]);
            assert_eq!(Pattern::new(at.into()).mismatch(0, &bytes), None);
        }
    }
}
