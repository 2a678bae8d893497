//! How an export begins and ends.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use super::export::{Export, FORMATS, Format, Image, KIB, MIB, until};
use crate::mount::is_mounted;

/// Writes every fourth cluster, so that the image needs tables.
fn scatter(export: &Export) {
    let file = export.open();
    for block in 0..64 {
        file.write_all_at(&vec![9; 64 * KIB as usize], block * 256 * KIB).unwrap();
    }
}

/// The image has what [`scatter`] wrote.
fn has_it_all(image: &Image) {
    image.is_consistent();
    for block in 0..64 {
        image.is_filled(block * 256 * KIB, 64 * KIB, 9);
        image.is_filled(block * 256 * KIB + 64 * KIB, 192 * KIB, 0);
    }
}

#[test]
fn a_signal_unmounts_and_leaves_a_consistent_image() {
    for format in FORMATS {
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let image = Image::new(format, 16 * MIB);
            let mut export = image.serve(&["--writable"]);
            scatter(&export);
            export.mount.signal(signal).unwrap();
            export.mount.ended().unwrap();
            assert!(!is_mounted(export.file()).unwrap());
            has_it_all(&image);
        }
    }
}

#[test]
fn unmounting_ends_the_server_and_leaves_a_consistent_image() {
    for format in FORMATS {
        let image = Image::new(format, 16 * MIB);
        let mut export = image.serve(&["--writable"]);
        scatter(&export);
        // A child of another test may still hold the file that was written, until it runs its program.
        until(|| unmount(export.file(), UnmountFlags::empty()).is_ok());
        export.mount.ended().unwrap();
        has_it_all(&image);
    }
}

#[test]
fn a_signal_in_the_middle_of_writing_leaves_a_consistent_image() {
    for format in FORMATS {
        let image = Image::new(format, 64 * MIB);
        let mut export = image.serve(&["--writable"]);
        let file = export.open();
        let writer = thread::spawn(move || {
            // The disk goes away under it.
            (0..4096_u64).take_while(|block| write(&file, block * 37 % 1024)).count()
        });
        thread::sleep(Duration::from_millis(100));
        export.mount.signal(Signal::INT).unwrap();
        thread::sleep(Duration::from_millis(50));
        export.mount.signal(Signal::INT).unwrap();
        export.mount.ended().unwrap();
        writer.join().unwrap();
        image.is_consistent();
    }
}

fn write(file: &File, block: u64) -> bool {
    file.write_all_at(&[1; 64 << 10], block * 64 * KIB).is_ok()
}

#[test]
fn what_was_synced_survives_a_killed_server_and_the_image_is_not_corrupt() {
    for format in FORMATS {
        let image = Image::new(format, 16 * MIB);
        let mut export = image.serve(&["--writable"]);
        let file = export.open();
        for block in 0..64 {
            file.write_all_at(&vec![9; 64 * KIB as usize], block * 256 * KIB).unwrap();
        }
        file.sync_all().unwrap();
        file.write_all_at(&vec![8; 64 * KIB as usize], 64 * KIB).unwrap();
        export.mount.kill().unwrap();
        drop((file, export));
        // Clusters may be leaked, which harms nobody.
        let checked = image.check();
        assert!(matches!(checked.code, Some(0 | 3)), "{}", checked.said);
        for block in 0..64 {
            image.is_filled(block * 256 * KIB, 64 * KIB, 9);
        }
    }
}

#[test]
fn a_busy_export_is_detached_after_five_seconds() {
    let format = FORMATS[FORMATS.len() - 1];
    let image = Image::new(format, MIB);
    let mut export = image.serve(&["--writable"]);
    let file = export.open();
    file.write_all_at(&[1; 4096], 0).unwrap();
    let start = Instant::now();
    export.mount.signal(Signal::TERM).unwrap();
    export.mount.ended().unwrap();
    assert!(start.elapsed() > Duration::from_secs(4), "ended after {:?}", start.elapsed());
    drop(file);
    image.is_consistent();
    image.is_filled(0, 4096, 1);
}

#[test]
fn the_start_line_says_what_is_served_where() {
    for format in FORMATS {
        let image = Image::new(format, MIB);
        let export = image.serve(&["--writable"]);
        let log = || export.mount.log().unwrap();
        until(|| log().contains("serving "));
        let log = log();
        let (path, point) = (image.path(), image.point());
        let words = [path.to_str().unwrap(), point.to_str().unwrap(), format.name()];
        for word in words {
            assert!(log.contains(word), "no {word} in {log}");
        }
        assert!(log.contains(&format!("serving {}", path.display())), "{log}");
        export.stop();
    }
}

#[test]
fn the_server_writes_back_memory_for_others() {
    let image = Image::new(Format::Raw, MIB);
    let export = image.serve(&["--writable"]);
    let pid = export.mount.pid();
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        // Behind the name, which ends with a parenthesis, the flags are the seventh.
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        let flags: u32 = rest.split(' ').nth(6).unwrap().parse().unwrap();
        assert_eq!(flags & FLUSHER == FLUSHER, may_be_flusher(), "{stat}");
        threads += 1;
    }
    assert!(threads > 1, "{threads} threads");
    export.stop();
}

/// `PF_MEMALLOC_NOIO` and `PF_LOCAL_THROTTLE` of the kernel, which PR_SET_IO_FLUSHER sets.
const FLUSHER: u32 = 0x0018_0000;

/// Whether the kernel grants that here: it asks for CAP_SYS_RESOURCE.
fn may_be_flusher() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & 1 << CAP_SYS_RESOURCE != 0
}
