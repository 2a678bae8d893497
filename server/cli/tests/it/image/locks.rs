//! Who may have an image at the same time: QEMU's own locks.

use std::process::Command;

use super::export::{FAILURE, FORMATS, Format, Image, MIB, ended};

/// A second mount point.
fn second(image: &Image) -> std::path::PathBuf {
    let path = image.at("second");
    std::fs::write(&path, "").unwrap();
    path
}

/// Whether fsrv serves it over another file, while somebody has it.
pub(super) fn fsrv_may(image: &Image, args: &[&str]) -> bool {
    let second = second(image);
    match image.serve_at(&second, args) {
        Ok(export) => {
            export.stop();
            true
        }
        Err(_) => {
            let refused = super::export::refused(|command| {
                command.arg("--fuse").arg(&second).arg("--image").arg(image.path());
                command.args(image.format_args()).args(args)
            });
            refused.says(FAILURE, &[&image.path().display().to_string(), "another process"]);
            false
        }
    }
}

/// Whether QEMU opens it, while somebody has it.
pub(super) fn qemu_may(image: &Image, format: Format, args: &[&str]) -> bool {
    let mut command = Command::new("qemu-io");
    command.args(["-f", format.name(), "-c", "read 0 512"]).args(args).arg(image.path());
    let ended = ended(&mut command);
    assert!(ended.code == Some(0) || ended.said.contains("lock"), "{}", ended.said);
    ended.code == Some(0)
}

/// Who comes second: may write, may read.
pub(super) const SECOND: [(&[&str], &[&str]); 2] = [(&["--writable"], &[]), (&[], &["-r"])];

#[test]
fn an_image_that_qemu_writes_is_refused() {
    for format in FORMATS {
        let image = Image::new(format, MIB);
        let qemu = image.serve_by_qemu(&["--writable"]);
        assert_eq!(SECOND.map(|(args, _)| fsrv_may(&image, args)), [false, false], "{format:?}");
        qemu.stop();
        assert!(fsrv_may(&image, &["--writable"]));
    }
}

#[test]
fn an_image_that_qemu_reads_can_be_read_and_not_written() {
    for format in FORMATS {
        let image = Image::new(format, MIB);
        let qemu = image.serve_by_qemu(&[]);
        // A raw image has nothing that QEMU keeps in memory, so it bears that others write there.
        let expected = [format == Format::Raw, true];
        assert_eq!(SECOND.map(|(args, _)| fsrv_may(&image, args)), expected, "{format:?}");
        qemu.stop();
    }
}

#[test]
fn qemu_refuses_an_image_that_is_served_writable() {
    for format in FORMATS {
        let image = Image::new(format, MIB);
        let export = image.serve(&["--writable"]);
        let may = SECOND.map(|(_, args)| qemu_may(&image, format, args));
        // As above: who only reads a raw image bears writers.
        assert_eq!(may, [false, format == Format::Raw], "{format:?}");
        export.stop();
        assert!(qemu_may(&image, format, &[]));
    }
}

#[test]
fn qemu_can_read_and_not_write_an_image_that_is_served_read_only() {
    for format in FORMATS {
        let image = Image::new(format, MIB);
        let export = image.serve(&[]);
        let may = SECOND.map(|(_, args)| qemu_may(&image, format, args));
        assert_eq!(may, [false, true], "{format:?}");
        export.stop();
    }
}

#[test]
fn two_servers_can_read_an_image_and_only_one_can_write_it() {
    for format in FORMATS {
        for (first, expected) in [(&["--writable"][..], [false, false]), (&[], [false, true])] {
            let image = Image::new(format, MIB);
            let export = image.serve(first);
            let may = SECOND.map(|(args, _)| fsrv_may(&image, args));
            assert_eq!(may, expected, "{format:?} {first:?}");
            export.stop();
        }
    }
}

#[test]
fn an_image_is_refused_by_every_path_to_it() {
    let image = Image::new(Format::Raw, MIB);
    std::fs::hard_link(image.path(), image.at("other")).unwrap();
    let export = image.serve(&["--writable"]);
    let second = second(&image);
    let refused = super::export::refused(|command| {
        command.arg("--fuse").arg(&second).arg("--image").arg(image.at("other"));
        command.args(["--format", "raw", "--writable"])
    });
    refused.says(FAILURE, &["another process"]);
    export.stop();
}

#[test]
fn a_killed_server_leaves_no_lock() {
    for format in FORMATS {
        let image = Image::new(format, MIB);
        let mut export = image.serve(&["--writable"]);
        export.mount.kill().unwrap();
        drop(export);
        assert!(qemu_may(&image, format, &[]));
        assert!(fsrv_may(&image, &["--writable"]));
    }
}
