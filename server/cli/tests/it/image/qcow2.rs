//! What qcow2 has and raw images have not.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use rustix::io::Errno;

use super::export::{FAILURE, Format, Image, KIB, MIB, as_qemu, qemu_img, seen, succeeds};

#[test]
fn what_is_not_of_the_format_that_is_said_is_refused() {
    let image = Image::of(Format::Qcow2, &[0; 65_536]);
    for args in [&["--format", "qcow2"][..], &["--format", "qcow2", "--writable"]] {
        image.is_refused(args).says(FAILURE, &[&image.path().display().to_string(), "qcow2"]);
    }
    assert_eq!(fs::read(image.path()).unwrap(), [0; 65_536], "it was changed");
}

#[test]
fn both_versions_are_read_and_written() {
    for compat in ["compat=0.10", "compat=1.1"] {
        let image = Image::with(Format::Qcow2, MIB, &["-o", compat]);
        image.fill(0, 4096, 5);
        let export = image.serve(&["--writable"]);
        let file = export.open();
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [5; 4096], "{compat}");
        file.write_all_at(&[6; 4096], 512 << 10).unwrap();
        drop(file);
        export.stop();
        image.is_consistent();
        image.is_filled(512 << 10, 4096, 6);
    }
}

#[test]
fn what_is_not_supported_is_refused_with_the_way_out() {
    for (options, words) in [
        ("extended_l2=on,cluster_size=64k", ["extended L2", "extended_l2=off"]),
        ("compression_type=zstd", ["compression", "compression_type=zlib"]),
        (ENCRYPTED, ["encrypted", "qemu-img convert"]),
    ] {
        let image = Image::of(Format::Qcow2, b"");
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "--object", "secret,id=key,data=secret", "-f", "qcow2"]);
        succeeds(create.args(["-o", options]).arg(image.path()).arg("1M"));
        for args in [&["--format", "qcow2"][..], &[]] {
            image.is_refused(args).says(FAILURE, &words);
        }
    }
}

const ENCRYPTED: &str = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";

#[test]
fn an_image_that_is_marked_corrupt_or_was_not_closed_is_only_read() {
    /// Bits of the incompatible features, in the last byte of the field at 72.
    const MARKS: [(u8, &str); 2] = [(1, "not closed"), (2, "corrupt")];
    for (mark, word) in MARKS {
        let image = Image::new(Format::Qcow2, MIB);
        File::options().write(true).open(image.path()).unwrap().write_all_at(&[mark], 79).unwrap();
        let refused = image.is_refused(&["--format", "qcow2", "--writable"]);
        refused.says(FAILURE, &[word, "qemu-img check -r"]);
        let export = image.serve(&[]);
        assert_eq!(fs::read(export.file()).unwrap(), vec![0; MIB as usize]);
        export.stop();
    }
}

#[test]
fn its_length_is_a_number_of_sectors() {
    let image = || Image::new(Format::Qcow2, MIB);
    let outcome = as_qemu(image, &["--writable", "--growable"], |path| {
        let file = File::options().write(true).open(path).unwrap();
        (seen(file.set_len(MIB + 1)), file.metadata().unwrap().len())
    });
    assert_eq!(outcome, (Err(Errno::INVAL), MIB));
    // QEMU refuses such a write.
    let image = image();
    let export = image.serve(&["--writable", "--growable"]);
    let file = export.open();
    file.write_all_at(&[6; 100], MIB).unwrap();
    assert_eq!(file.metadata().unwrap().len(), MIB + 100);
    drop(file);
    export.stop();
    image.is_consistent();
    image.is_filled(MIB, 100, 6);
    image.is_filled(MIB + 100, 412, 0);
}

#[test]
fn small_clusters_are_not_served_past_the_cache() {
    let image = Image::with(Format::Qcow2, MIB, &["-o", "cluster_size=512"]);
    let refused = image.is_refused(&["--format", "qcow2", "--host-cache", "direct"]);
    refused.says(FAILURE, &["clusters", "--host-cache"]);
}

#[test]
fn compressed_clusters_are_read_and_replaced() {
    let raw = Image::new(Format::Raw, 4 * MIB);
    raw.fill(0, 3 * MIB, 5);
    let image = Image::of(Format::Qcow2, b"");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-c", "-f", "raw", "-O", "qcow2"]);
    succeeds(convert.arg(raw.path()).arg(image.path()));
    let export = image.serve(&["--writable"]);
    let file = export.open();
    let mut bytes = vec![0; MIB as usize];
    file.read_exact_at(&mut bytes, MIB).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 5));
    file.write_all_at(&[6; 100], MIB + 1000).unwrap();
    drop(file);
    export.stop();
    image.is_consistent();
    image.is_filled(0, MIB + 1000, 5);
    image.is_filled(MIB + 1000, 100, 6);
    image.is_filled(MIB + 1100, 2 * MIB - 1100, 5);
    image.is_filled(3 * MIB, MIB, 0);
}

#[test]
fn an_image_with_snapshots_keeps_them() {
    let image = Image::new(Format::Qcow2, 16 * MIB);
    image.fill(0, 16 * MIB, 3);
    let path = image.path().display().to_string();
    qemu_img(["snapshot", "-c", "before", &path]);
    let export = image.serve(&["--writable"]);
    export.open().write_all_at(&vec![9; MIB as usize], 64 * KIB).unwrap();
    export.stop();
    image.is_consistent();
    image.is_filled(64 * KIB, MIB, 9);
    qemu_img(["snapshot", "-a", "before", &path]);
    image.is_consistent();
    image.is_filled(0, 16 * MIB, 3);
}

/// A snapshot of version 2 has no length of its own.
#[test]
fn an_image_of_version_2_with_snapshots_keeps_its_length() {
    for (compat, expected) in
        [("compat=0.10", [Err(Errno::OPNOTSUPP); 2]), ("compat=1.1", [Ok(()), Ok(())])]
    {
        let image = || {
            let image = Image::with(Format::Qcow2, MIB, &["-o", compat]);
            image.fill(0, MIB, 3);
            qemu_img(["snapshot", "-c", "before", &image.path().display().to_string()]);
            image
        };
        let outcome = as_qemu(image, &["--writable"], |path| {
            let file = File::options().write(true).open(path).unwrap();
            [seen(file.set_len(2 * MIB)), seen(file.set_len(MIB / 2))]
        });
        assert_eq!(outcome, expected, "{compat}");
    }
}

/// Who appends counts in bytes, however long the kernel remembers a length.
#[test]
fn what_is_appended_follows_what_was_appended() {
    use std::io::Write;
    let image = Image::new(Format::Qcow2, MIB);
    let export = image.serve(&["--writable", "--growable"]);
    let mut expected = vec![0; MIB as usize];
    for round in 0..40_u8 {
        let mut file = File::options().append(true).open(export.file()).unwrap();
        let piece = vec![round + 1; 37 + usize::from(round)];
        file.write_all(&piece).unwrap();
        expected.extend(piece);
        if round % 3 == 0 {
            let len = fs::metadata(export.file()).unwrap().len();
            assert_eq!(len, expected.len() as u64);
        }
    }
    assert!(fs::read(export.file()).unwrap() == expected);
    export.stop();
    image.is_consistent();
}
