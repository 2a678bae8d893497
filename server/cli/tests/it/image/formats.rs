//! Which format an image is taken for.

use std::fs;
use std::os::unix::fs::FileExt;

use super::export::{FORMATS, Format, Image, MIB, USAGE};
use crate::mount::Mount;
use crate::served::FSRV;

/// Serves without saying the format.
fn probed(image: &Image) -> Mount {
    let mount = Mount::start(&image.point(), |command, point| {
        command.arg(FSRV).args(["serve", "--fuse"]).arg(point).arg("--image").arg(image.path())
    });
    mount.unwrap_or_else(|error| panic!("{error:#}"))
}

#[test]
fn the_format_is_found_when_nothing_is_written() {
    for format in FORMATS {
        let image = Image::new(format, 3 * MIB);
        image.fill(MIB, 4096, 5);
        let mount = probed(&image);
        let bytes = fs::read(image.point()).unwrap();
        assert_eq!(bytes.len() as u64, 3 * MIB, "{format:?}");
        assert_eq!(bytes[MIB as usize..][..4096], [5; 4096]);
        mount.stop().unwrap();
    }
}

#[test]
fn what_has_no_known_beginning_is_raw() {
    let image = Image::of(Format::Raw, &[0xa5; 8192]);
    let mount = probed(&image);
    assert_eq!(fs::read(image.point()).unwrap(), [0xa5; 8192]);
    mount.stop().unwrap();
}

#[test]
fn a_raw_image_that_begins_like_qcow2_stays_raw() {
    let qcow2 = Image::new(Format::Qcow2, 64 * MIB);
    let bytes = fs::read(qcow2.path()).unwrap();
    let raw = Image::of(Format::Raw, &bytes);
    for args in [&[][..], &["--writable"]] {
        let export = raw.serve(args);
        let seen = fs::read(export.file()).unwrap();
        assert_eq!(seen[..bytes.len()], bytes);
        assert!((seen.len() as u64) < MIB, "it was taken for qcow2");
        export.stop();
    }
}

#[test]
fn a_guest_that_writes_a_header_gets_no_other_image() {
    let raw = Image::new(Format::Raw, MIB);
    let malicious = Image::with(Format::Qcow2, MIB, &["-u", "-F", "raw", "-b", "/etc/passwd"]);
    let header = fs::read(malicious.path()).unwrap();
    for _ in 0..2 {
        let export = raw.serve(&["--writable"]);
        let file = export.open();
        file.write_all_at(&header[..4096], 0).unwrap();
        let mut seen = [0; 4096];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(seen, header[..4096]);
        assert_eq!(file.metadata().unwrap().len(), MIB);
        drop(file);
        export.stop();
    }
}

#[test]
fn a_format_that_fsrv_does_not_have_is_refused() {
    let image = Image::new(Format::Raw, MIB);
    image.is_refused(&["--format", "vmdk"]).says(USAGE, &["vmdk", "raw", "qcow2"]);
}

#[test]
fn the_format_is_required_of_what_is_written() {
    let image = Image::new(Format::Raw, MIB);
    for args in [&["--writable"][..], &["--writable", "--growable"]] {
        image.is_refused(args).says(USAGE, &["--format"]);
    }
}

#[test]
fn an_image_of_another_format_is_not_taken_for_raw() {
    use std::process::Command;

    use super::export::{FAILURE, succeeds};
    for format in ["vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"] {
        let image = Image::of(Format::Raw, b"");
        let mut create = Command::new("qemu-img");
        succeeds(create.args(["create", "-q", "-f", format]).arg(image.path()).arg("4M"));
        let convert = format!("qemu-img convert -f {format} -O qcow2");
        image.is_refused(&[]).says(FAILURE, &[&convert, "--format raw"]);
        image.serve(&[]).stop();
    }
}
