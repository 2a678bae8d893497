//! Images that refer to other files.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use super::export::{Export, FAILURE, Format, Image, KIB, MIB, succeeds};
use super::locks::{SECOND, fsrv_may, qemu_may};
use crate::served::directory;

/// A layer over `base`, in a directory of its own. The name of `base` is written as it is said.
fn over(base: &Path, format: Format) -> Image {
    let image = Image::of(Format::Qcow2, b"");
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-u", "-F", format.name(), "-b"]).arg(base);
    succeeds(create.arg(image.path()).arg(MIB.to_string()));
    image
}

/// Its parts below have 1, 2 and so on; the parts that none has are zeroes.
fn layered(image: &Image, layer: u8) {
    let mut command = Command::new("qemu-io");
    let order = format!("write -P {layer} {} {}", u64::from(layer) * 64 * KIB, 64 * KIB);
    succeeds(command.args(["-f", "qcow2", "-c", &order]).arg(image.path()));
}

fn has(export: &Export, at: u64, byte: u8) {
    let mut bytes = vec![0xff; 64 * KIB as usize];
    File::open(export.file()).unwrap().read_exact_at(&mut bytes, at).unwrap();
    assert_eq!(bytes, vec![byte; 64 * KIB as usize], "at {at}");
}

fn directory_of(image: &Image) -> String {
    image.at("").display().to_string()
}

#[test]
fn a_backing_file_is_refused_unless_its_directory_is_allowed() {
    for base in [Image::new(Format::Raw, MIB), Image::new(Format::Qcow2, MIB)] {
        let [_, format] = base.format_args();
        let format = if format == "raw" { Format::Raw } else { Format::Qcow2 };
        base.fill(0, 64 * KIB, 5);
        let top = over(&base.path(), format);
        for args in [&["--format", "qcow2"][..], &["--format", "qcow2", "--writable"]] {
            let refused = top.is_refused(args);
            refused.says(FAILURE, &[&base.path().display().to_string(), "--allow-backing"]);
        }
        let export = top.serve(&["--allow-backing", &directory_of(&base)]);
        has(&export, 0, 5);
        export.stop();
    }
}

#[test]
fn another_directory_that_is_allowed_does_not_help() {
    let base = Image::new(Format::Raw, MIB);
    let top = over(&base.path(), Format::Raw);
    let other = directory();
    let other = other.path().to_str().unwrap();
    let refused = top.is_refused(&["--format", "qcow2", "--allow-backing", other]);
    refused.says(FAILURE, &[&base.path().display().to_string(), "--allow-backing"]);
}

#[test]
fn the_directory_of_the_image_is_not_allowed_by_itself() {
    let top = over(Path::new("beside"), Format::Raw);
    fs::write(top.at("beside"), vec![5; MIB as usize]).unwrap();
    top.is_refused(&["--format", "qcow2"]).says(FAILURE, &["beside", "--allow-backing"]);
    let export = top.serve(&["--allow-backing", &directory_of(&top)]);
    has(&export, 0, 5);
    export.stop();
}

#[test]
fn a_chain_of_three_shows_the_uppermost_of_each_part() {
    let base = Image::new(Format::Qcow2, MIB);
    layered(&base, 1);
    layered(&base, 2);
    let middle = over(&base.path(), Format::Qcow2);
    layered(&middle, 3);
    let top = over(&middle.path(), Format::Qcow2);
    layered(&top, 4);
    let (first, second) = (directory_of(&base), directory_of(&middle));
    let allow = ["--allow-backing", &first, "--allow-backing", &second];
    let export = top.serve(&[&["--writable"][..], &allow].concat());
    for layer in 0..6 {
        has(&export, layer * 64 * KIB, if layer < 5 { layer as u8 } else { 0 });
    }
    export.open().write_all_at(&[9; 512], 64 * KIB).unwrap();
    export.stop();
    for image in [&base, &middle, &top] {
        image.is_consistent();
    }
    base.is_filled(64 * KIB, 64 * KIB, 1);
    top.is_filled(64 * KIB, 512, 9);
    top.is_filled(64 * KIB + 512, 64 * KIB - 512, 1);
    assert!(
        top.is_refused(&["--format", "qcow2", "--allow-backing", &second]).said.contains(&first)
    );
}

#[test]
fn a_backing_file_is_never_written() {
    let base = Image::new(Format::Raw, MIB);
    base.fill(0, MIB, 5);
    let before = fs::read(base.path()).unwrap();
    let top = over(&base.path(), Format::Raw);
    let export = top.serve(&["--writable", "--growable", "--allow-backing", &directory_of(&base)]);
    let file = export.open();
    file.write_all_at(&[6; 100_000], 1000).unwrap();
    file.write_all_at(&[6; 102_400], MIB).unwrap();
    file.set_len(MIB / 2).unwrap();
    drop(file);
    export.stop();
    assert!(before == fs::read(base.path()).unwrap(), "the backing file was changed");
}

#[test]
fn a_backing_file_that_is_shorter_reads_as_zeroes_behind_its_end() {
    let base = Image::new(Format::Raw, MIB / 2);
    base.fill(0, MIB / 2, 5);
    let top = over(&base.path(), Format::Raw);
    let export = top.serve(&["--allow-backing", &directory_of(&base)]);
    has(&export, MIB / 2 - 64 * KIB, 5);
    has(&export, MIB / 2, 0);
    has(&export, MIB - 64 * KIB, 0);
    export.stop();
}

#[test]
fn a_file_of_the_system_as_backing_file_is_refused() {
    for path in ["/etc/shadow", "../../../../../../etc/shadow", "/proc/self/environ"] {
        let top = over(Path::new(path), Format::Raw);
        let allowed = directory_of(&top);
        for args in
            [&["--format", "qcow2"][..], &["--format", "qcow2", "--allow-backing", &allowed]]
        {
            top.is_refused(args).says(FAILURE, &["--allow-backing"]);
        }
    }
}

#[test]
fn a_symlink_out_of_an_allowed_directory_is_refused() {
    let top = over(Path::new("link"), Format::Raw);
    symlink("/etc/shadow", top.at("link")).unwrap();
    let allowed = directory_of(&top);
    let refused = top.is_refused(&["--format", "qcow2", "--allow-backing", &allowed]);
    refused.says(FAILURE, &["link"]);
}

#[test]
fn a_fifo_as_backing_file_is_refused_without_waiting() {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let top = over(Path::new("fifo"), Format::Raw);
    mknodat(CWD, top.at("fifo"), FileType::Fifo, Mode::RUSR, makedev(0, 0)).unwrap();
    let allowed = directory_of(&top);
    top.is_refused(&["--format", "qcow2", "--allow-backing", &allowed]).says(FAILURE, &["fifo"]);
}

#[test]
fn a_loop_in_the_chain_is_refused() {
    let first = over(Path::new("second"), Format::Qcow2);
    let second = over(Path::new("image"), Format::Qcow2);
    fs::copy(second.path(), first.at("second")).unwrap();
    let itself = over(Path::new("image"), Format::Qcow2);
    for image in [&first, &itself] {
        let allowed = directory_of(image);
        let refused = image.is_refused(&["--format", "qcow2", "--allow-backing", &allowed]);
        refused.says(FAILURE, &["chain"]);
    }
}

#[test]
fn a_backing_file_that_is_missing_is_named() {
    let top = over(Path::new("missing"), Format::Raw);
    let allowed = directory_of(&top);
    let refused = top.is_refused(&["--format", "qcow2", "--allow-backing", &allowed]);
    refused.says(FAILURE, &["missing", "No such file"]);
}

#[test]
fn an_external_data_file_is_refused_unless_its_directory_is_allowed() {
    let image = Image::of(Format::Qcow2, b"");
    let data = image.at("data");
    let option = format!("data_file={}", data.display());
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-o", &option]);
    succeeds(create.arg(image.path()).arg(MIB.to_string()));
    image.fill(0, 64 * KIB, 5);
    let refused = image.is_refused(&["--format", "qcow2"]);
    refused.says(FAILURE, &[&data.display().to_string(), "--allow-backing"]);
    let export = image.serve(&["--writable", "--allow-backing", &directory_of(&image)]);
    has(&export, 0, 5);
    export.open().write_all_at(&[6; 65_536], 64 * KIB).unwrap();
    export.stop();
    image.is_consistent();
    image.is_filled(64 * KIB, 64 * KIB, 6);
}

#[test]
fn a_directory_that_is_allowed_must_exist() {
    let image = Image::new(Format::Qcow2, MIB);
    let refused = image.is_refused(&["--format", "qcow2", "--allow-backing", "/does/not/exist"]);
    refused.says(FAILURE, &["/does/not/exist"]);
}

#[test]
fn an_image_is_served_over_its_own_backing_file() {
    let base = Image::new(Format::Qcow2, MIB);
    base.fill(0, MIB, 7);
    let top = over(&base.path(), Format::Qcow2);
    let export = top.serve_at(&base.path(), &["--allow-backing", &directory_of(&base)]).unwrap();
    has(&export, 0, 7);
    has(&export, MIB - 64 * KIB, 7);
    export.stop();
}

#[test]
fn a_backing_file_can_be_shared_by_readers_and_not_written() {
    let base = Image::new(Format::Qcow2, MIB);
    let top = over(&base.path(), Format::Qcow2);
    let export = top.serve(&["--writable", "--allow-backing", &directory_of(&base)]);
    assert_eq!(SECOND.map(|(args, _)| fsrv_may(&base, args)), [false, true]);
    assert_eq!(SECOND.map(|(_, args)| qemu_may(&base, Format::Qcow2, args)), [false, true]);
    export.stop();
}

#[test]
fn a_backing_file_without_a_format_is_refused() {
    let base = Image::new(Format::Raw, MIB);
    let top = Image::of(Format::Qcow2, b"");
    let mut create = Command::new("qemu-img");
    // QEMU writes no such image any more, but one of version 2 needs no format.
    create.args(["create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b"]).arg(base.path());
    succeeds(create.arg(top.path()).arg(MIB.to_string()));
    forget_format(&top);
    let allowed = directory_of(&base);
    let refused = top.is_refused(&["--format", "qcow2", "--allow-backing", &allowed]);
    refused.says(FAILURE, &[&base.path().display().to_string(), "format", "qemu-img rebase"]);
}

/// Makes the header extension with the format of the backing file one that nobody knows.
fn forget_format(image: &Image) {
    const BACKING_FORMAT: [u8; 4] = 0xe279_2aca_u32.to_be_bytes();
    let header = fs::read(image.path()).unwrap();
    let at = header.windows(4).position(|word| word == BACKING_FORMAT).expect("the extension");
    let file = File::options().write(true).open(image.path()).unwrap();
    file.write_all_at(b"none", at as u64).unwrap();
}

#[test]
fn names_do_not_matter_once_it_is_served() {
    let base = Image::new(Format::Raw, MIB);
    base.fill(0, MIB, 5);
    let top = over(&base.path(), Format::Raw);
    let export = top.serve(&["--writable", "--allow-backing", &directory_of(&base)]);
    for image in [&base, &top] {
        fs::rename(image.path(), image.at("renamed")).unwrap();
        fs::write(image.path(), "another file").unwrap();
    }
    has(&export, 0, 5);
    export.open().write_all_at(&[6; 65_536], 0).unwrap();
    has(&export, 0, 6);
    has(&export, MIB - 64 * KIB, 5);
    export.stop();
    assert_eq!(fs::read(top.path()).unwrap(), b"another file");
}
