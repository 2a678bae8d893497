//! What programs do with an export: mappings, loop devices, many at once, other users.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::export::{FORMATS, Format, Image, KIB, MIB, as_qemu, seen, succeeds};
use crate::semantics::sys::{Aligned, Mapping};
use crate::semantics::user::NOBODY;

/// A loop device. It is detached when the value is dropped.
pub(super) struct Loop(PathBuf);

impl Loop {
    pub(super) fn of(file: &Path) -> Self {
        let mut command = Command::new("losetup");
        Self(succeeds(command.args(["--find", "--show"]).arg(file)).trim_end().into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // There is nobody to tell in a destructor.
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_mapping_reads_and_writes_the_image() {
    for format in FORMATS {
        let image = Image::new(format, MIB);
        image.fill(0, MIB, 5);
        let export = image.serve(&["--writable"]);
        let file = export.open();
        let mut mapping = Mapping::new(&file, MIB as usize).unwrap();
        assert_eq!(mapping.read(MIB as usize - 1), 5);
        for at in 0..64 * KIB {
            mapping.write(at as usize, 6);
        }
        mapping.sync().unwrap();
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, 60 * KIB).unwrap();
        assert_eq!(bytes, [6; 4096], "{format:?}");
        drop((mapping, file));
        export.stop();
        image.is_consistent();
        image.is_filled(0, 64 * KIB, 6);
        image.is_filled(64 * KIB, MIB - 64 * KIB, 5);
    }
}

#[test]
fn a_mapping_sees_what_was_written_before_it_was_made() {
    let image = Image::new(Format::Raw, MIB);
    let export = image.serve(&["--writable"]);
    let file = export.open();
    for byte in 1..=3 {
        file.write_all_at(&[byte; 8192], 4096).unwrap();
        let mapping = Mapping::new(&file, 16_384).unwrap();
        assert_eq!([4095, 4096, 12_287, 12_288].map(|at| mapping.read(at)), [0, byte, byte, 0]);
    }
    drop(file);
    export.stop();
}

#[test]
fn a_loop_device_reads_and_writes_the_image() {
    for format in FORMATS {
        let image = Image::new(format, 4 * MIB);
        image.fill(MIB, 64 * KIB, 5);
        let export = image.serve(&["--writable"]);
        let device = Loop::of(export.file());
        let disk = File::options().read(true).write(true).open(device.path()).unwrap();
        let mut bytes = [0; 4096];
        disk.read_exact_at(&mut bytes, MIB).unwrap();
        assert_eq!(bytes, [5; 4096], "{format:?}");
        disk.write_all_at(&vec![6; MIB as usize], 2 * MIB).unwrap();
        disk.sync_all().unwrap();
        drop((disk, device));
        settled(&export);
        export.stop();
        image.is_consistent();
        image.is_filled(MIB, 64 * KIB, 5);
        image.is_filled(2 * MIB, MIB, 6);
        image.is_filled(3 * MIB, MIB, 0);
    }
}

/// A loop device closes its file a moment after it was detached.
fn settled(export: &super::export::Export) {
    let file = export.file().display().to_string();
    super::export::until(|| {
        let mut command = Command::new("losetup");
        succeeds(command.args(["--associated", &file])).is_empty()
    });
}

#[test]
fn a_loop_device_is_as_read_only_as_the_export() {
    let image = Image::new(Format::Raw, MIB);
    let export = image.serve(&[]);
    let mut command = Command::new("losetup");
    let printed = succeeds(command.args(["--find", "--show", "--read-only"]).arg(export.file()));
    let device = Loop(printed.trim_end().into());
    assert_eq!(fs::read(device.path()).unwrap(), vec![0; MIB as usize]);
    let written = File::options().write(true).open(device.path()).and_then(|disk| {
        disk.write_at(&[1; 4096], 0)?;
        disk.sync_all()
    });
    assert!(written.is_err(), "a read-only export was written");
    drop(device);
    settled(&export);
    export.stop();
}

#[test]
fn discarding_a_loop_device_makes_holes() {
    let image = Image::new(Format::Raw, 4 * MIB);
    image.fill(0, 4 * MIB, 5);
    let export = image.serve(&["--writable"]);
    let device = Loop::of(export.file());
    let range = ["--offset", "1048576", "--length", "1048576"];
    succeeds(Command::new("blkdiscard").args(range).arg(device.path()));
    drop(device);
    settled(&export);
    export.stop();
    image.is_filled(0, MIB, 5);
    image.is_filled(MIB, MIB, 0);
    image.is_filled(2 * MIB, 2 * MIB, 5);
}

#[test]
fn many_clients_write_and_read_at_once() {
    const WRITERS: u64 = 8;
    const BLOCKS: u64 = 64;
    for format in FORMATS {
        for engine in ["uring", "threads"] {
            let image = Image::new(format, WRITERS * BLOCKS * 8 * KIB);
            let export = image.serve(&["--writable", "--io-engine", engine]);
            thread::scope(|scope| {
                for writer in 0..WRITERS {
                    let file = direct(export.file());
                    scope.spawn(move || interleaved(&file, writer, WRITERS, BLOCKS));
                }
            });
            export.stop();
            image.is_consistent();
            for writer in 0..WRITERS {
                image.is_filled(writer * 8 * KIB, 8 * KIB, writer as u8 + 1);
                let last = (BLOCKS - 1) * WRITERS + writer;
                image.is_filled(last * 8 * KIB, 8 * KIB, writer as u8 + 1);
            }
        }
    }
}

fn direct(path: &Path) -> File {
    let flags = OFlags::DIRECT.bits() as i32;
    File::options().read(true).write(true).custom_flags(flags).open(path).expect("a direct file")
}

/// Writes every so-manieth block of 8 KiB, then reads all of them back.
fn interleaved(file: &File, writer: u64, writers: u64, blocks: u64) {
    let mut memory = Box::new(Aligned([writer as u8 + 1; 8192]));
    let place = |block| (block * writers + writer) * 8 * KIB;
    for block in 0..blocks {
        file.write_all_at(&memory.0, place(block)).expect("a write");
    }
    for block in 0..blocks {
        memory.0.fill(0);
        file.read_exact_at(&mut memory.0, place(block)).expect("a read");
        assert_eq!(memory.0, [writer as u8 + 1; 8192], "block {block} of {writer}");
    }
}

#[test]
fn direct_and_buffered_clients_see_each_other() {
    let image = Image::new(Format::Raw, MIB);
    let export = image.serve(&["--writable"]);
    let (direct, buffered) = (direct(export.file()), export.open());
    let mut memory = Box::new(Aligned([0; 8192]));
    for byte in 1..=20 {
        memory.0.fill(byte);
        direct.write_all_at(&memory.0, 8192).unwrap();
        let mut bytes = [0; 8192];
        buffered.read_exact_at(&mut bytes, 8192).unwrap();
        assert_eq!(bytes, [byte; 8192]);
        buffered.write_all_at(&[byte + 100; 8192], 8192).unwrap();
        direct.read_exact_at(&mut memory.0, 8192).unwrap();
        assert_eq!(memory.0, [byte + 100; 8192]);
    }
    drop((direct, buffered));
    export.stop();
}

#[test]
fn other_users_are_let_in_by_default_and_when_asked_for() {
    for args in [
        &["--writable"][..],
        &["--writable", "--allow-other", "on"],
        &["--writable", "--allow-other", "auto"],
    ] {
        let outcome = as_qemu(
            || Image::new(Format::Raw, MIB),
            args,
            |file| {
                fs::set_permissions(file, Permissions::from_mode(0o604)).unwrap();
                NOBODY.does(|| seen(File::open(file).map(drop)))
            },
        );
        assert_eq!(outcome, Ok(()), "{args:?}");
    }
}

#[test]
fn other_users_are_kept_out_when_asked_for() {
    let outcome = as_qemu(
        || Image::new(Format::Raw, MIB),
        &["--allow-other", "off"],
        |file| NOBODY.does(|| seen(fs::metadata(file).map(drop))),
    );
    assert_eq!(outcome, Err(Errno::ACCESS));
}
