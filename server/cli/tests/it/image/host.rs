//! A host filesystem that has no room.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Resource;

use super::export::{FORMATS, Format, Image, KIB, MIB};

/// A little filesystem at a directory, until the value is dropped.
struct LittleRoom<'a>(&'a Path);

impl<'a> LittleRoom<'a> {
    fn at(dir: &'a Path, bytes: u64) -> Self {
        let options = CString::new(format!("size={bytes}")).unwrap();
        let flags = MountFlags::empty();
        mount("test", dir, "tmpfs", flags, Some(options.as_c_str())).expect("a tmpfs");
        Self(dir)
    }
}

impl Drop for LittleRoom<'_> {
    fn drop(&mut self) {
        // A test that panics already says more.
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

/// Writes until there is no room, and returns how many blocks of 64 KiB were written and synced before.
fn write_until_full(file: &fs::File) -> u64 {
    for block in 0..256 {
        let write = file.write_all_at(&vec![7; 64 * KIB as usize], block * 64 * KIB);
        if let Err(error) = write.and_then(|()| file.sync_all()) {
            assert!(is_full(&error), "{error}");
            return block;
        }
    }
    panic!("there was room for all");
}

fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOSPC.raw_os_error())
}

fn a_full_host_is_told(format: Format) {
    let image = Image::nothing(format);
    let room = LittleRoom::at(image.directory(), 2 * MIB);
    image.make(16 * MIB, &[]);
    let export = image.serve(&["--writable"]);
    let file = export.open();
    let blocks = write_until_full(&file);
    assert!((4..=32).contains(&blocks), "{blocks} blocks");
    let mut read = vec![0; 64 * KIB as usize];
    for block in 0..blocks {
        file.read_exact_at(&mut read, block * 64 * KIB).unwrap();
        assert!(read.iter().all(|&byte| byte == 7), "block {block}");
    }
    drop(file);
    // The end may say that the last, which nobody was told to be there, is not.
    drop(export);
    let checked = image.check();
    assert!(matches!(checked.code, Some(0 | 3)), "{}", checked.said);
    image.is_filled(0, blocks * 64 * KIB, 7);
    drop(room);
}

#[test]
fn a_host_that_runs_full_is_told_and_keeps_what_was_synced_in_a_raw_image() {
    a_full_host_is_told(Format::Raw);
}

#[test]
fn a_host_that_runs_full_is_told_and_keeps_what_was_synced_in_a_qcow2_image() {
    a_full_host_is_told(Format::Qcow2);
}

#[test]
fn an_image_that_may_not_grow_is_an_error_and_the_server_goes_on() {
    for format in FORMATS {
        for engine in ["uring", "threads"] {
            let image = Image::new(format, 16 * MIB);
            let before = fs::metadata(image.path()).unwrap().len();
            let export = image.serve(&["--writable", "--growable", "--io-engine", engine]);
            let limit = if format == Format::Raw { before } else { before + MIB };
            export.mount.limit(Resource::Fsize, limit).unwrap();
            let file = export.open();
            let grow = match format {
                // It has its size, and could only become larger.
                Format::Raw => file.set_len(limit + MIB),
                Format::Qcow2 => {
                    file.write_all_at(&[7; 4 * MIB as usize], 0).and_then(|()| file.sync_all())
                }
            };
            let errno = grow.expect_err("a limit").raw_os_error();
            assert_eq!(errno, Some(libc::EFBIG), "{format:?} with {engine}");
            let mut read = [0; 512];
            file.read_exact_at(&mut read, 8 * MIB).expect("a server that goes on");
            drop(file);
            export.stop();
            image.is_consistent();
        }
    }
}

/// A disk that is larger than the host, and of which little is in use at a time.
#[test]
fn what_is_discarded_comes_back_to_the_image() {
    use rustix::fs::{FallocateFlags, fallocate};
    for options in [&["-o", "compat=1.1"], &["-o", "compat=0.10"]] {
        for zeroes_first in [false, true] {
            let image = Image::nothing(Format::Qcow2);
            let room = LittleRoom::at(image.directory(), 30 * MIB);
            image.make(1024 * MIB, options);
            let export = image.serve(&["--writable"]);
            let file = export.open();
            for round in 0..8 {
                let at = round * 100 * MIB;
                file.write_all_at(&vec![7; 10 * MIB as usize], at).unwrap();
                if zeroes_first {
                    fallocate(&file, FallocateFlags::ZERO_RANGE, at, 10 * MIB).unwrap();
                }
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&file, punch, at, 10 * MIB).unwrap();
                file.sync_all().unwrap();
            }
            drop(file);
            export.stop();
            image.is_consistent();
            let len = fs::metadata(image.path()).unwrap().len();
            assert!(len < 12 * MIB, "{options:?}: {len}");
            drop(room);
        }
    }
}
