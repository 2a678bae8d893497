//! One of everything that programs do with files. What they saw is printed; it must be the same natively.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use clap::Args;
use rustix::fs::{
    CWD, FallocateFlags, FileType, FlockOperation, Mode, RenameFlags, SeekFrom as Extent,
    XattrFlags, copy_file_range, fallocate, fcntl_lock, flock, getxattr, listxattr, mknodat,
    removexattr, renameat_with, seek, setxattr, statvfs,
};
use rustix::io::Errno;

/// Do one of everything in a directory: what the suite `guest` runs in a virtual machine
#[derive(Args)]
#[command(hide = true)]
pub(crate) struct Exercise {
    dir: PathBuf,
}

type Step = fn(&Path) -> Result<String>;

const STEPS: [(&str, Step); 15] = [
    ("write and read", write_and_read),
    ("append", append),
    ("truncate", truncate),
    ("direct", direct),
    ("holes", holes),
    ("copy", copy),
    ("rename", rename),
    ("link", link),
    ("symlink", symbolic_link),
    ("directory", directory),
    ("unlinked", unlinked),
    ("xattr", xattr),
    ("lock", lock),
    ("times and kinds", times_and_kinds),
    ("statfs", statfs),
];

/// A size that no block divides.
const SIZE: usize = 1_234_567;

impl Exercise {
    pub(crate) fn run(self) -> Result<()> {
        for (name, step) in STEPS {
            let dir = self.dir.join(name.replace(' ', "-"));
            fs::create_dir(&dir)?;
            println!("{name}: {}", step(&dir).with_context(|| String::from(name))?);
        }
        Ok(())
    }
}

/// Bytes of which none is where its neighbour could be.
fn pattern(size: usize) -> Vec<u8> {
    (0..size as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn write_and_read(dir: &Path) -> Result<String> {
    let (bytes, path) = (pattern(SIZE), dir.join("file"));
    let mut file = File::create_new(&path)?;
    for chunk in bytes.chunks(70_001) {
        file.write_all(chunk)?;
    }
    file.sync_all()?;
    let file = File::open(&path)?;
    for (offset, length) in [(0, 1), (4095, 2), (131_071, 262_146), (SIZE - 5, 5)] {
        let mut part = vec![0; length];
        file.read_exact_at(&mut part, offset as u64)?;
        ensure!(part == bytes[offset..offset + length], "wrong bytes at {offset}");
    }
    ensure!(fs::read(&path)? == bytes, "wrong bytes");
    let behind = file.read_at(&mut [0; 10], SIZE as u64)?;
    Ok(format!("{} bytes, {behind} behind the end", file.metadata()?.len()))
}

fn append(dir: &Path) -> Result<String> {
    let path = dir.join("file");
    let mut options = OpenOptions::new();
    let (mut first, mut second) =
        (options.append(true).create(true).open(&path)?, options.open(&path)?);
    for line in 0..100 {
        writeln!(first, "first {line}")?;
        writeln!(second, "second {line}")?;
    }
    Ok(format!("{} lines", fs::read_to_string(path)?.lines().count()))
}

fn truncate(dir: &Path) -> Result<String> {
    let path = dir.join("file");
    fs::write(&path, pattern(10_000))?;
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(5_001)?;
    file.set_len(20_000)?;
    let read = fs::read(&path)?;
    ensure!(read[..5_001] == pattern(5_001) && read[5_001..].iter().all(|byte| *byte == 0));
    fs::write(dir.join("emptied"), "text")?;
    File::create(dir.join("emptied"))?;
    Ok(format!("{} and {}", read.len(), fs::metadata(dir.join("emptied"))?.len()))
}

/// Past the guest's page cache, from aligned memory.
fn direct(dir: &Path) -> Result<String> {
    const ALIGN: usize = 4096;
    let mut memory = vec![0; 65 * ALIGN];
    let start = memory.as_ptr().align_offset(ALIGN);
    let memory = &mut memory[start..start + 64 * ALIGN];
    memory.copy_from_slice(&pattern(64 * ALIGN));
    let path = dir.join("file");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    let file = options.custom_flags(flags).open(&path)?;
    file.write_all_at(memory, 0)?;
    ensure!(fs::read(&path)? == memory, "wrong bytes through the cache");
    memory.fill(0);
    file.read_exact_at(memory, 0)?;
    ensure!(*memory == pattern(64 * ALIGN)[..], "wrong bytes past the cache");
    Ok(format!("{} bytes", memory.len()))
}

fn holes(dir: &Path) -> Result<String> {
    const PIECE: u64 = 1 << 20;
    let path = dir.join("file");
    fs::write(&path, pattern(3 * PIECE as usize))?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    file.sync_all()?;
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, PIECE, PIECE)?;
    fallocate(&file, FallocateFlags::empty(), 3 * PIECE, PIECE)?;
    let hole = seek(&file, Extent::Hole(0))?;
    let data = seek(&file, Extent::Data(hole))?;
    let mut middle = vec![1; PIECE as usize];
    file.read_exact_at(&mut middle, PIECE)?;
    ensure!(middle.iter().all(|byte| *byte == 0), "the hole has bytes");
    Ok(format!("a hole from {hole} to {data} of {}", file.metadata()?.len()))
}

fn copy(dir: &Path) -> Result<String> {
    fs::write(dir.join("from"), pattern(SIZE))?;
    let (from, to) = (File::open(dir.join("from"))?, File::create_new(dir.join("to"))?);
    let mut copied = 0;
    while copied < SIZE {
        let step = copy_file_range(&from, None, &to, None, SIZE - copied)?;
        ensure!(step > 0, "the copy stops at {copied}");
        copied += step;
    }
    ensure!(fs::read(dir.join("to"))? == pattern(SIZE), "wrong bytes");
    Ok(format!("{copied} bytes"))
}

fn rename(dir: &Path) -> Result<String> {
    let path = |name: &str| dir.join(name);
    for name in ["a", "b", "c"] {
        fs::write(path(name), name)?;
    }
    fs::create_dir_all(path("dir/below"))?;
    fs::rename(path("a"), path("dir/below/moved"))?;
    fs::rename(path("b"), path("c"))?;
    fs::rename(path("dir"), path("renamed"))?;
    let exchange = renameat_with(CWD, path("c"), CWD, path("renamed"), RenameFlags::EXCHANGE);
    let refused = renameat_with(CWD, path("c"), CWD, path("renamed"), RenameFlags::NOREPLACE);
    let (moved, was_b) =
        (fs::read_to_string(path("c/below/moved"))?, fs::read_to_string(path("renamed"))?);
    Ok(format!("{exchange:?} {refused:?} {moved} {was_b} {}", path("b").exists()))
}

fn link(dir: &Path) -> Result<String> {
    let (first, second) = (dir.join("first"), dir.join("second"));
    fs::write(&first, "text")?;
    fs::hard_link(&first, &second)?;
    let (one, other) = (fs::metadata(&first)?, fs::metadata(&second)?);
    fs::remove_file(&first)?;
    let again = fs::hard_link(dir.join("none"), &first).map_err(|error| error.kind());
    let left = fs::metadata(&second)?.nlink();
    Ok(format!("{} {} {left} {again:?}", one.ino() == other.ino(), other.nlink()))
}

fn symbolic_link(dir: &Path) -> Result<String> {
    fs::write(dir.join("file"), "text")?;
    symlink("file", dir.join("link"))?;
    symlink("x".repeat(4000), dir.join("long"))?;
    symlink("loop", dir.join("loop"))?;
    let long = fs::read_link(dir.join("long"))?.as_os_str().len();
    let looped = fs::read(dir.join("loop")).map_err(|error| error.raw_os_error());
    Ok(format!("{} {long} {looped:?}", fs::read_to_string(dir.join("link"))?))
}

fn directory(dir: &Path) -> Result<String> {
    for number in 0..500 {
        File::create_new(dir.join(format!("{number:0200}")))?;
    }
    let count = fs::read_dir(dir)?.count();
    fs::create_dir(dir.join("sub"))?;
    fs::write(dir.join("sub/file"), "")?;
    let refused = fs::remove_dir(dir.join("sub")).map_err(|error| error.kind());
    for number in 0..490 {
        fs::remove_file(dir.join(format!("{number:0200}")))?;
    }
    let too_long = File::create(dir.join("n".repeat(256))).map(drop).map_err(|error| error.kind());
    Ok(format!("{count} {} {refused:?} {too_long:?}", fs::read_dir(dir)?.count()))
}

fn unlinked(dir: &Path) -> Result<String> {
    let path = dir.join("file");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.write_all(b"before ")?;
    fs::remove_file(&path)?;
    file.write_all(b"after")?;
    file.seek(SeekFrom::Start(0))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(format!("{text} {} {}", file.metadata()?.nlink(), path.exists()))
}

fn xattr(dir: &Path) -> Result<String> {
    let path = dir.join("file");
    fs::write(&path, "")?;
    setxattr(&path, "user.colour", b"blue", XattrFlags::empty())?;
    setxattr(&path, "user.long", &pattern(2000), XattrFlags::CREATE)?;
    let again = setxattr(&path, "user.colour", b"red", XattrFlags::CREATE);
    setxattr(&path, "user.gone", b"soon", XattrFlags::empty())?;
    removexattr(&path, "user.gone")?;
    let mut value = vec![0; 4000];
    let long = getxattr(&path, "user.long", &mut value)?;
    ensure!(value[..long] == pattern(2000), "a wrong value");
    let gone = getxattr(&path, "user.gone", &mut value);
    let small = getxattr(&path, "user.long", &mut [0; 10]);
    let list = listxattr(&path, &mut value)?;
    let mut names: Vec<_> =
        value[..list].split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    names.sort();
    Ok(format!("{again:?} {gone:?} {small:?} {}", names.join(" ")))
}

fn lock(dir: &Path) -> Result<String> {
    let path = dir.join("file");
    fs::write(&path, "")?;
    let (first, second) = (File::open(&path)?, OpenOptions::new().write(true).open(&path)?);
    flock(&first, FlockOperation::LockExclusive)?;
    let refused = flock(&second, FlockOperation::NonBlockingLockShared);
    ensure!(refused == Err(Errno::WOULDBLOCK), "two have the lock: {refused:?}");
    drop(first);
    flock(&second, FlockOperation::NonBlockingLockExclusive)?;
    fcntl_lock(&second, FlockOperation::LockExclusive)?;
    fcntl_lock(&second, FlockOperation::Unlock)?;
    Ok(format!("{refused:?}"))
}

fn times_and_kinds(dir: &Path) -> Result<String> {
    let path = dir.join("file");
    let file = File::create_new(&path)?;
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    file.set_times(FileTimes::new().set_accessed(time).set_modified(time))?;
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::from(0o640), 0)?;
    std::os::unix::fs::chown(&path, Some(12), Some(34))?;
    rustix::fs::chmod(&path, Mode::from(0o4751))?;
    let meta = fs::metadata(&path)?;
    let fifo = fs::metadata(dir.join("fifo"))?.file_type().is_fifo();
    Ok(format!(
        "{}.{} {} {} {:o} {fifo}",
        meta.mtime(),
        meta.mtime_nsec(),
        meta.uid(),
        meta.gid(),
        meta.mode()
    ))
}

fn statfs(dir: &Path) -> Result<String> {
    let stat = statvfs(dir)?;
    Ok(format!("{} {} {} {}", stat.f_frsize, stat.f_blocks, stat.f_files, stat.f_namemax))
}

/// What the host sees of the files: names, kinds, owners, links, attributes and bytes.
pub(super) fn describe(root: &Path) -> Result<String> {
    const DESCRIBE: &str = "cd \"$0\" && find . -printf '%p %M %U:%G %n %s %l\\n' | sort &&
        find . -type f -exec sha256sum {} + | sort -k 2 && getfattr --recursive --dump -m - . | sort";
    crate::program::check(
        Command::new("sh").args(["-c", DESCRIBE]).arg(root),
        Duration::from_secs(60),
    )
}
