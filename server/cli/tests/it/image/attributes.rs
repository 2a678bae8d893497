//! What `stat` says of an export.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::export::{FORMATS, Format, Image, KIB, MIB, as_qemu, seen};

/// With 64 KiB of data.
fn image(format: Format) -> Image {
    let image = Image::new(format, 3 * MIB);
    image.fill(MIB, 64 * KIB, 7);
    image
}

#[test]
fn an_export_is_a_regular_file_of_the_server_with_the_length_of_the_image() {
    for format in FORMATS {
        for (args, mode) in [(&[][..], 0o100_400), (&["--writable"], 0o100_600)] {
            let (mode_seen, uid, gid, links, size) = as_qemu(
                || image(format),
                args,
                |file| {
                    let stat = fs::metadata(file).unwrap();
                    (stat.mode(), stat.uid(), stat.gid(), stat.nlink(), stat.size())
                },
            );
            assert_eq!((mode_seen, links, size), (mode, 1, 3 * MIB), "{format:?}");
            assert_eq!((uid, gid), (geteuid().as_raw(), getegid().as_raw()));
        }
    }
}

#[test]
fn the_block_size_is_what_requests_must_be_aligned_to() {
    for format in FORMATS {
        let size = as_qemu(|| image(format), &[], |file| fs::metadata(file).unwrap().blksize());
        assert_eq!(size, 1, "{format:?}");
        let image = image(format);
        let export = image.serve(&["--host-cache", "direct"]);
        let size = fs::metadata(export.file()).unwrap().blksize();
        assert!([512, 1024, 2048, 4096].contains(&size), "{format:?}: {size}");
        export.stop();
    }
}

#[test]
fn blocks_are_those_that_the_image_takes_of_the_host() {
    for format in FORMATS {
        let blocks = as_qemu(|| image(format), &[], |file| fs::metadata(file).unwrap().blocks());
        assert_eq!(blocks, fs::metadata(image(format).path()).unwrap().blocks(), "{format:?}");
        assert!(blocks < 3 * MIB / 512, "{format:?} takes {blocks} blocks");
    }
}

#[test]
fn an_image_that_takes_no_space_has_no_blocks() {
    let image = Image::new(Format::Raw, MIB);
    let export = image.serve(&[]);
    assert_eq!(fs::metadata(export.file()).unwrap().blocks(), 0);
    export.stop();
}

#[test]
fn blocks_grow_with_what_is_written() {
    for format in FORMATS {
        let image = Image::new(format, 8 * MIB);
        let export = image.serve(&["--writable"]);
        let file = export.open();
        file.write_all_at(&vec![1; MIB as usize], 2 * MIB).unwrap();
        file.sync_all().unwrap();
        // The kernel may keep attributes for a second.
        std::thread::sleep(Duration::from_millis(1100));
        let (shown, taken) = (file.metadata().unwrap(), fs::metadata(image.path()).unwrap());
        assert!(shown.blocks() >= MIB / 512, "{format:?} takes {} blocks", shown.blocks());
        assert_eq!(shown.blocks(), taken.blocks(), "{format:?}");
        drop(file);
        export.stop();
    }
}

#[test]
fn times_are_those_of_the_image() {
    let image = image(Format::Raw);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::options().write(true).open(image.path()).unwrap().set_modified(long_ago).unwrap();
    let export = image.serve(&["--writable"]);
    assert_eq!(fs::metadata(export.file()).unwrap().modified().unwrap(), long_ago);
    export.open().write_all_at(&[1], 0).unwrap();
    let now = fs::metadata(image.path()).unwrap().modified().unwrap();
    assert!(now > long_ago);
    assert_eq!(fs::metadata(export.file()).unwrap().modified().unwrap(), now);
    export.stop();
}

#[test]
fn nothing_is_below_the_file() {
    let below = as_qemu(
        || image(Format::Raw),
        &["--writable"],
        |file| {
            let below = file.join("name");
            let listed = fs::read_dir(file).map(drop);
            [
                seen(fs::metadata(&below).map(drop)),
                seen(File::create(&below).map(drop)),
                seen(listed),
            ]
        },
    );
    assert_eq!(below, [Err(Errno::NOTDIR); 3]);
}

#[test]
fn a_block_device_is_served_as_a_file() {
    let image = image(Format::Raw);
    let device = super::clients::Loop::of(&image.path());
    assert!(fs::metadata(device.path()).unwrap().file_type().is_block_device());
    std::os::unix::fs::symlink(device.path(), image.at("device")).unwrap();
    let mount = crate::mount::Mount::start(&image.point(), |command, point| {
        command.arg(crate::served::FSRV).args(["serve", "--fuse"]).arg(point);
        command.arg("--image").arg(device.path()).args(["--format", "raw", "--writable"])
    });
    let mount = mount.unwrap_or_else(|error| panic!("{error:#}"));
    let file = File::options().read(true).write(true).open(image.point()).unwrap();
    let stat = file.metadata().unwrap();
    assert_eq!((stat.size(), stat.file_type().is_file()), (3 * MIB, true));
    let mut bytes = [0; 4096];
    file.read_exact_at(&mut bytes, MIB).unwrap();
    assert_eq!(bytes, [7; 4096]);
    file.write_all_at(&[8; 4096], 2 * MIB).unwrap();
    file.sync_all().unwrap();
    drop(file);
    mount.stop().unwrap();
    drop(device);
    image.is_filled(2 * MIB, 4096, 8);
}
