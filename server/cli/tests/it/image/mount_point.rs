//! Over which files an image can be served.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::export::{Ended, Export, FAILURE, FORMATS, Format, Image, MIB, refused};

/// fsrv does not serve `image` over `name` beside it.
fn refused_at(image: &Image, name: &str) -> Ended {
    refused(|command| {
        command.arg("--fuse").arg(image.at(name)).arg("--image").arg(image.path());
        command.args(image.format_args())
    })
}

/// The content of an image that has 7 at its start.
fn shows_the_image(export: &Export) {
    assert_eq!(fs::metadata(export.file()).unwrap().len(), MIB);
    let mut bytes = [0; 4096];
    File::open(export.file()).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [7; 4096]);
}

fn image(format: Format) -> Image {
    let image = Image::new(format, MIB);
    image.fill(0, 4096, 7);
    image
}

#[test]
fn a_mount_point_that_is_no_regular_file_is_refused() {
    let image = image(Format::Raw);
    fs::create_dir(image.at("directory")).unwrap();
    mknodat(CWD, image.at("fifo"), FileType::Fifo, Mode::RUSR, makedev(0, 0)).unwrap();
    mknodat(CWD, image.at("null"), FileType::CharacterDevice, Mode::RUSR, makedev(1, 3)).unwrap();
    let _socket = UnixListener::bind(image.at("socket")).unwrap();
    symlink("directory", image.at("link")).unwrap();
    for name in ["directory", "fifo", "null", "socket", "link"] {
        let words = format!("'{}' is not a regular file", image.at(name).display());
        refused_at(&image, name).says(FAILURE, &[&words]);
    }
}

#[test]
fn a_mount_point_that_does_not_exist_is_refused() {
    let image = image(Format::Raw);
    let path = image.at("missing");
    refused_at(&image, "missing").says(FAILURE, &[&path.display().to_string(), "does not exist"]);
    assert!(!path.exists(), "it was made");
}

#[test]
fn an_image_that_does_not_exist_is_refused() {
    let image = image(Format::Raw);
    fs::remove_file(image.path()).unwrap();
    let path = image.path().display().to_string();
    refused_at(&image, "point").says(FAILURE, &[&path, "No such file"]);
    assert!(!image.path().exists(), "it was made");
}

#[test]
fn a_directory_or_a_character_device_is_no_image() {
    let image = image(Format::Raw);
    for path in ["/dev/zero", "/var/tmp"] {
        let ended = refused(|command| {
            command.arg("--fuse").arg(image.point()).args(["--image", path, "--format", "raw"])
        });
        ended.says(FAILURE, &[path]);
    }
}

#[test]
fn an_image_is_served_over_its_own_file() {
    for format in FORMATS {
        let image = image(format);
        let own = fs::metadata(image.path()).unwrap();
        let export = image.serve_at(&image.path(), &["--writable"]).unwrap();
        shows_the_image(&export);
        let file = export.open();
        file.write_all_at(&[8; 4096], 8192).unwrap();
        drop(file);
        export.stop();
        let after = fs::metadata(image.path()).unwrap();
        assert_eq!((own.ino(), own.dev()), (after.ino(), after.dev()));
        image.is_consistent();
        image.is_filled(0, 4096, 7);
        image.is_filled(8192, 4096, 8);
    }
}

#[test]
fn a_second_export_on_the_same_file_is_refused_by_any_path() {
    let image = image(Format::Raw);
    symlink("point", image.at("symlink")).unwrap();
    fs::hard_link(image.point(), image.at("hardlink")).unwrap();
    let export = image.serve(&[]);
    for name in ["point", "symlink", "hardlink"] {
        let path = image.at(name).display().to_string();
        refused_at(&image, name).says(FAILURE, &[&path, "already exported"]);
    }
    shows_the_image(&export);
    export.stop();
    // What an export that is gone leaves does not stand in the way of the next.
    for name in ["point", "hardlink"] {
        let export = image.serve_at(&image.at(name), &[]).unwrap();
        shows_the_image(&export);
        export.stop();
    }
}

#[test]
fn a_file_whose_server_was_killed_can_be_exported_again_after_unmounting() {
    let image = image(Format::Raw);
    let mut export = image.serve(&[]);
    export.mount.kill().unwrap();
    drop(export);
    let export = image.serve(&[]);
    shows_the_image(&export);
    export.stop();
}

#[test]
fn a_symlink_to_a_regular_file_is_a_mount_point() {
    let image = image(Format::Raw);
    symlink("point", image.at("symlink")).unwrap();
    let export = image.serve_at(&image.at("symlink"), &[]).unwrap();
    shows_the_image(&export);
    assert_eq!(fs::metadata(image.point()).unwrap().len(), MIB);
    export.stop();
}

#[test]
fn the_content_of_the_mount_point_is_covered_and_comes_back() {
    for format in FORMATS {
        let image = image(format);
        fs::write(image.point(), "covered").unwrap();
        let export = image.serve(&["--writable"]);
        shows_the_image(&export);
        export.stop();
        assert_eq!(fs::read_to_string(image.point()).unwrap(), "covered");
    }
}

#[test]
fn one_image_is_served_read_only_over_two_files() {
    for format in FORMATS {
        let image = image(format);
        fs::write(image.at("second"), "").unwrap();
        let (first, second) = (image.serve(&[]), image.serve_at(&image.at("second"), &[]).unwrap());
        shows_the_image(&first);
        shows_the_image(&second);
        first.stop();
        second.stop();
    }
}
