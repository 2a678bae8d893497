//! A whole tree, described line by line.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Result as SysResult;

/// How much of an inode two trees have in common.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Detail {
    /// Two trees that had the same things done to them.
    Twins,
    /// One tree, seen twice: its inode numbers and times too.
    OneTree,
}

/// Every file below `root`, by its path.
pub(crate) fn describe(root: &Path, detail: Detail) -> io::Result<BTreeMap<PathBuf, String>> {
    let mut lines = BTreeMap::new();
    walk(root, Path::new(""), detail, &mut lines)?;
    Ok(lines)
}

fn walk(
    root: &Path,
    at: &Path,
    detail: Detail,
    lines: &mut BTreeMap<PathBuf, String>,
) -> io::Result<()> {
    let path = root.join(at);
    let meta = fs::symlink_metadata(&path)?;
    lines.insert(at.into(), line(&path, &meta, detail)?);
    if meta.is_dir() {
        for entry in fs::read_dir(&path)? {
            walk(root, &at.join(entry?.file_name()), detail, lines)?;
        }
    }
    Ok(())
}

fn line(path: &Path, meta: &fs::Metadata, detail: Detail) -> io::Result<String> {
    let size = if meta.is_dir() { 0 } else { meta.size() };
    let content = match meta.file_type() {
        kind if kind.is_file() => format!("{:x}", digest_file(path)?),
        kind if kind.is_symlink() => format!("{:?}", fs::read_link(path)?),
        _ => String::new(),
    };
    let identity = match detail {
        Detail::Twins => String::new(),
        Detail::OneTree => format!(
            " ino {} mtime {}.{} ctime {}.{}",
            meta.ino(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec()
        ),
    };
    Ok(format!(
        "mode {:o} {}:{} nlink {} size {size} rdev {} xattrs {:?} content {content}{identity}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink(),
        meta.rdev(),
        xattr_names(path)?,
    ))
}

/// The names of a file's extended attributes, sorted, each with the size of its value.
pub(crate) fn xattr_names(path: &Path) -> SysResult<BTreeMap<String, usize>> {
    let mut list = vec![0; 65_536];
    let count = rustix::fs::llistxattr(path, &mut list[..])?;
    let names = list[..count].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let mut sizes = BTreeMap::new();
    for name in names {
        let size = rustix::fs::lgetxattr_query(path, name).unwrap_or(usize::MAX);
        sizes.insert(String::from_utf8_lossy(name).into_owned(), size);
    }
    Ok(sizes)
}

fn digest_file(path: &Path) -> io::Result<u64> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(digest(&bytes))
}

/// Tells contents apart within one run.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
