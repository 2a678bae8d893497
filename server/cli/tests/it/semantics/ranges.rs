//! Data and holes, copies, and space.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{
    FallocateFlags, SeekFrom, copy_file_range, fallocate, ftruncate, seek, statvfs, syncfs,
};
use rustix::io::Errno;

use super::alike;

const MIB: u64 = 1 << 20;

#[test]
fn data_and_holes_are_where_they_are() {
    alike(|dir| {
        let file = new(dir, "file");
        for (at, len) in [(0, 10), (MIB, 4096), (10 * MIB, 5)] {
            file.write_all_at(&vec![1; len], at).unwrap();
        }
        ftruncate(&file, 20 * MIB).unwrap();
        file.sync_all().unwrap();
        let offsets =
            [0, 1, 4096, MIB - 1, MIB, 2 * MIB, 10 * MIB + 4, 11 * MIB, 20 * MIB, 1 << 40];
        offsets.map(|at| {
            let data = seek(&file, SeekFrom::Data(at));
            let hole = seek(&file, SeekFrom::Hole(at));
            (at, data, hole)
        })
    });
}

#[test]
fn a_file_is_copied_by_ranges() {
    alike(|dir| {
        let (from, to) = (new(dir, "from"), new(dir, "to"));
        let content: Vec<u8> = (0..3 * MIB + 7).map(|byte| (byte % 251) as u8).collect();
        from.write_all_at(&content, 0).unwrap();
        let copied = copy_all(&from, 0, &to, 0, content.len());
        let same = fs::read(dir.join("to")).unwrap() == content;
        // A few bytes, the end, behind it, and within one file.
        let more = [
            copy_all(&from, 5, &to, 100, 10),
            copy_all(&from, 3 * MIB, &to, 0, 100),
            copy_all(&from, 30 * MIB, &to, 0, 100),
            copy_all(&from, 0, &from, 4 * MIB, 1000),
            copy_all(&from, 0, &from, 10, 1000),
            copy_all(&from, 0, &to, 0, 0),
        ];
        (copied, same, more, fs::read(dir.join("to")).unwrap(), from.metadata().unwrap().len())
    });
}

#[test]
fn ranges_behind_4_gib_are_copied() {
    alike(|dir| {
        let (from, to) = (new(dir, "from"), new(dir, "to"));
        let (source, target) = ((5 << 32) + 4096, (9 << 32) + 123);
        from.write_all_at(b"far away", source).unwrap();
        let copied = copy_all(&from, source, &to, target, 8);
        let mut bytes = [0; 8];
        to.read_exact_at(&mut bytes, target).unwrap();
        let blocks = to.metadata().unwrap().blocks() < 1000;
        (copied, bytes, to.metadata().unwrap().len(), blocks)
    });
}

#[test]
fn a_copy_needs_files_open_for_it() {
    alike(|dir| {
        fs::write(dir.join("file"), "content").unwrap();
        let read = File::open(dir.join("file")).unwrap();
        let write = File::options().write(true).open(dir.join("file")).unwrap();
        let append = File::options().append(true).create(true).open(dir.join("other")).unwrap();
        let dir = File::open(dir).unwrap();
        [
            copy_all(&read, 0, &read, 100, 4),
            copy_all(&write, 0, &write, 100, 4),
            copy_all(&read, 0, &append, 0, 4),
            copy_all(&dir, 0, &write, 0, 4),
            copy_all(&read, 0, &write, 100, 4),
        ]
    });
}

/// As a program does it: until all is copied, or nothing more comes.
fn copy_all(from: &File, at: u64, to: &File, target: u64, len: usize) -> Result<usize, Errno> {
    let (mut at, mut target, mut copied) = (at, target, 0);
    while copied < len {
        let more = copy_file_range(from, Some(&mut at), to, Some(&mut target), len - copied)?;
        if more == 0 {
            break;
        }
        copied += more;
    }
    Ok(copied)
}

#[test]
fn space_is_allocated_punched_and_zeroed() {
    alike(|dir| {
        let keep = FallocateFlags::KEEP_SIZE;
        let steps = [
            (FallocateFlags::empty(), 0, 100_000),
            (keep, 100_000, 100_000),
            (FallocateFlags::PUNCH_HOLE | keep, 4096, 8192),
            (FallocateFlags::PUNCH_HOLE | keep, 50_000, MIB),
            (FallocateFlags::ZERO_RANGE, 20_000, 100_000),
            (FallocateFlags::ZERO_RANGE | keep, 100_000, MIB),
            (FallocateFlags::empty(), 5 * MIB, 1),
            (FallocateFlags::empty(), 0, 0),
            (FallocateFlags::empty(), 1 << 62, 1 << 62),
            (FallocateFlags::PUNCH_HOLE, 0, 4096),
            (FallocateFlags::from_bits_retain(0x400), 0, 4096),
        ];
        steps.map(|(flags, at, len)| {
            let path = dir.join("file");
            fs::write(&path, vec![b'x'; 70_000]).unwrap();
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let result = fallocate(&file, flags, at, len);
            file.sync_all().unwrap();
            let stat = file.metadata().unwrap();
            // In space that is only set aside the page cache decides what is a hole.
            let is_punched = flags.contains(FallocateFlags::PUNCH_HOLE);
            let hole = is_punched.then(|| seek(&file, SeekFrom::Hole(0)));
            (flags.bits(), result, stat.len(), stat.blocks(), hole, fs::read(&path).unwrap())
        })
    });
}

/// The kernel's FUSE client sends neither, on any server.
#[test]
fn collapsing_and_inserting_are_refused_without_a_change() {
    let served = crate::served::Served::new(&[]);
    let path = served.mounted().join("file");
    fs::write(&path, vec![b'x'; 70_000]).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    for flags in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        assert_eq!(fallocate(&file, flags, 0, 4096), Err(Errno::OPNOTSUPP));
    }
    assert_eq!(fs::read(&path).unwrap(), vec![b'x'; 70_000]);
    drop(file);
    served.stop();
}

#[test]
fn offsets_end_where_the_host_says() {
    alike(|dir| {
        let file = new(dir, "file");
        [1 << 40, (1 << 44) - 4096, 1 << 44, 1 << 60, i64::MAX as u64 - 1, i64::MAX as u64].map(
            |at| {
                let errno = |error: std::io::Error| error.raw_os_error();
                let written = file.write_at(b"x", at).map_err(errno);
                let read = file.read_at(&mut [0], at).map_err(errno);
                (at, written, read, ftruncate(&file, at), file.metadata().unwrap().len())
            },
        )
    });
}

#[test]
fn the_mount_is_as_full_as_the_host() {
    alike(|dir| {
        let stat = statvfs(dir).unwrap();
        // Others use the disk meanwhile.
        let near = |a: u64| a >> 20;
        let sizes = (stat.f_blocks, stat.f_bsize, stat.f_frsize, stat.f_files, stat.f_namemax);
        (sizes, near(stat.f_bfree * stat.f_frsize) > 0, near(stat.f_bavail * stat.f_frsize) > 0)
    });
}

#[test]
fn everything_can_be_synced() {
    alike(|dir| {
        let file = new(dir, "file");
        file.write_all_at(b"content", 0).unwrap();
        let dir = File::open(dir).unwrap();
        let read = File::open(std::path::Path::new("/proc/self/fd").join(fd(&file))).unwrap();
        let errno = |error: std::io::Error| error.raw_os_error();
        (
            [file.sync_all(), file.sync_data(), dir.sync_all(), dir.sync_data(), read.sync_all()]
                .map(|result| result.map_err(errno)),
            [syncfs(&file), syncfs(&dir)],
        )
    });
}

fn fd(file: &File) -> String {
    std::os::fd::AsRawFd::as_raw_fd(file).to_string()
}

fn new(dir: &Path, name: &str) -> File {
    File::create_new(dir.join(name)).unwrap();
    File::options().read(true).write(true).open(dir.join(name)).unwrap()
}
