//! Reading, writing and resizing an export.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::process::Command;

use rustix::io::Errno;

use super::export::{FORMATS, Format, Image, KIB, MIB, as_qemu, seen, succeeds};
use crate::semantics::sys::truncate;
use crate::semantics::user::{NOBODY, ROOT};

const GROWABLE: [&str; 2] = ["--writable", "--growable"];

/// One whose last page is full of 5.
fn image(format: Format) -> Image {
    let image = Image::new(format, MIB);
    image.fill(MIB - 4 * KIB, 4 * KIB, 5);
    image
}

fn writer(file: &std::path::Path) -> File {
    File::options().read(true).write(true).open(file).expect("a served image")
}

fn content(file: &File, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; len];
    file.read_exact_at(&mut bytes, at).expect("bytes of an image");
    bytes
}

#[test]
fn a_read_ends_where_the_image_ends() {
    for format in FORMATS {
        for args in [&[][..], &["--writable"], &GROWABLE] {
            let counts = as_qemu(
                || image(format),
                args,
                |file| {
                    let file = File::open(file).unwrap();
                    let mut bytes = [0; 8192];
                    [MIB - 8192, MIB - 4096, MIB - 1, MIB]
                        .map(|at| seen(file.read_at(&mut bytes, at)))
                },
            );
            assert_eq!(counts, [Ok(8192), Ok(4096), Ok(1), Ok(0)], "{format:?} {args:?}");
        }
    }
}

#[test]
fn a_read_past_the_end_has_no_bytes() {
    for format in FORMATS {
        let image = image(format);
        let export = image.serve(&[]);
        let file = File::open(export.file()).unwrap();
        for at in [MIB + 1, 2 * MIB, 1 << 40, i64::MAX as u64 - 8192] {
            assert_eq!(seen(file.read_at(&mut [0; 4096], at)), Ok(0), "{format:?} at {at}");
        }
        drop(file);
        export.stop();
    }
}

#[test]
fn a_read_only_export_can_be_opened_for_writing_by_nobody() {
    for format in FORMATS {
        let image = image(format);
        let export = image.serve(&[]);
        for options in [
            File::options().write(true),
            File::options().read(true).write(true),
            File::options().append(true),
            File::options().write(true).truncate(true),
        ] {
            let outcome = seen(options.open(export.file()).map(drop));
            assert_eq!(outcome, Err(Errno::ACCESS), "{format:?} {options:?}");
        }
        assert_eq!(fs::read(export.file()).unwrap().len() as u64, MIB);
        export.stop();
    }
}

#[test]
fn a_read_only_export_cannot_be_truncated() {
    for format in FORMATS {
        let outcome = as_qemu(
            || image(format),
            &[],
            |file| seen(truncate(&CString::new(file.as_os_str().as_bytes()).unwrap(), 0)),
        );
        assert_eq!(outcome, Err(Errno::ACCESS), "{format:?}");
    }
}

#[test]
fn a_read_only_export_cannot_be_opened_for_writing_by_its_owner() {
    let outcomes = as_qemu(
        || image(Format::Raw),
        &[],
        |file| {
            chown(file, Some(NOBODY.uid), Some(NOBODY.gid)).unwrap();
            let open = |options: &File| options.metadata().map(drop);
            NOBODY.does(|| {
                [
                    seen(File::open(file).and_then(|file| open(&file))),
                    seen(File::options().write(true).open(file).map(drop)),
                    seen(File::options().write(true).truncate(true).open(file).map(drop)),
                ]
            })
        },
    );
    assert_eq!(outcomes, [Ok(()), Err(Errno::ACCESS), Err(Errno::ACCESS)]);
}

#[test]
fn what_is_written_is_in_the_image() {
    for format in FORMATS {
        let image = image(format);
        let export = image.serve(&["--writable"]);
        let file = export.open();
        file.write_all_at(&[3; 70_001], 12_345).unwrap();
        assert_eq!(content(&file, 12_345, 70_001), [3; 70_001]);
        drop(file);
        export.stop();
        image.is_consistent();
        image.is_filled(0, 12_345, 0);
        image.is_filled(12_345, 70_001, 3);
        image.is_filled(MIB - 4 * KIB, 4 * KIB, 5);
    }
}

#[test]
fn a_write_ends_where_the_image_ends() {
    for format in FORMATS {
        let seen = as_qemu(
            || image(format),
            &["--writable"],
            |path| {
                let file = writer(path);
                let count = seen(file.write_at(&[9; 8192], MIB - 4096));
                (count, file.metadata().unwrap().len(), content(&file, MIB - 8192, 8192))
            },
        );
        let expected = [[0; 4096], [9; 4096]].concat();
        assert_eq!(seen, (Ok(4096), MIB, expected), "{format:?}");
    }
}

#[test]
fn a_write_of_which_nothing_fits_finds_no_space() {
    for format in FORMATS {
        let image = image(format);
        let export = image.serve(&["--writable"]);
        let file = export.open();
        for at in [MIB, MIB + 1, 1 << 40, i64::MAX as u64 - 4096] {
            assert_eq!(
                seen(file.write_at(&[9; 4096], at)),
                Err(Errno::NOSPC),
                "{format:?} at {at}"
            );
        }
        assert_eq!(file.metadata().unwrap().len(), MIB);
        drop(file);
        export.stop();
        image.is_consistent();
    }
}

#[test]
fn truncate_resizes_a_writable_export_that_is_not_growable() {
    for format in FORMATS {
        let sizes = as_qemu(
            || image(format),
            &["--writable"],
            |path| {
                let file = writer(path);
                let resize = |size| {
                    let outcome = seen(file.set_len(size));
                    (outcome, file.metadata().unwrap().len(), fs::metadata(path).unwrap().len())
                };
                let larger = resize(2 * MIB);
                (larger, content(&file, MIB - 4096, 8192))
            },
        );
        let content = [[5; 4096], [0; 4096]].concat();
        assert_eq!(sizes, ((Ok(()), 2 * MIB, 2 * MIB), content), "{format:?}");
    }
}

#[test]
fn an_image_that_was_cut_and_grows_again_has_zeroes_there() {
    for format in FORMATS {
        let image = image(format);
        let export = image.serve(&["--writable"]);
        let file = export.open();
        for size in [MIB - 4 * KIB, MIB / 2] {
            file.set_len(size).unwrap();
            assert_eq!(file.metadata().unwrap().len(), size, "{format:?}");
        }
        file.set_len(MIB).unwrap();
        assert_eq!(content(&file, MIB / 2, MIB as usize / 2), vec![0; MIB as usize / 2]);
        drop(file);
        export.stop();
        image.is_consistent();
        image.is_filled(0, MIB, 0);
    }
}

#[test]
fn opening_an_export_to_truncate_it_leaves_it_as_it_is() {
    for format in FORMATS {
        for args in [&["--writable"][..], &GROWABLE] {
            let seen = as_qemu(
                || image(format),
                args,
                |path| {
                    let file = File::options().read(true).write(true).truncate(true).open(path);
                    let file = file.expect("a file to write");
                    let rest = content(&file, MIB - 8192, 8192);
                    (file.metadata().unwrap().len(), fs::metadata(path).unwrap().len(), rest)
                },
            );
            let rest = [[0; 4096], [5; 4096]].concat();
            assert_eq!(seen, (MIB, MIB, rest), "{format:?} {args:?}");
        }
    }
}

#[test]
fn a_file_is_copied_into_an_export_that_is_larger() {
    for format in FORMATS {
        let image = image(format);
        fs::write(image.at("content"), [7; 123_456]).unwrap();
        let export = image.serve(&["--writable"]);
        succeeds(Command::new("cp").arg(image.at("content")).arg(export.file()));
        assert_eq!(fs::metadata(export.file()).unwrap().len(), MIB);
        export.stop();
        image.is_consistent();
        image.is_filled(0, 123_456, 7);
        image.is_filled(123_456, MIB - 4096 - 123_456, 0);
        image.is_filled(MIB - 4096, 4096, 5);
    }
}

#[test]
fn a_write_past_the_end_of_a_growable_export_extends_it_with_zeroes() {
    for format in FORMATS {
        let seen = as_qemu(
            || image(format),
            &GROWABLE,
            |path| {
                let file = writer(path);
                let across = seen(file.write_at(&[9; 8192], MIB - 4096));
                let beyond = seen(file.write_at(&[8; 4096], 2 * MIB));
                let size = file.metadata().unwrap().len();
                let gap = content(&file, MIB + 4096, (MIB - 4096) as usize);
                let rest = content(&file, 2 * MIB - 4096, 8192);
                (across, beyond, size, gap.iter().all(|&byte| byte == 0), rest)
            },
        );
        let rest = [[0; 4096], [8; 4096]].concat();
        assert_eq!(seen, (Ok(8192), Ok(4096), 2 * MIB + 4096, true, rest), "{format:?}");
    }
}

#[test]
fn a_growable_export_can_be_appended_to() {
    for format in FORMATS {
        let image = image(format);
        let export = image.serve(&GROWABLE);
        let mut file = File::options().append(true).read(true).open(export.file()).unwrap();
        for byte in 1..=4 {
            file.write_all(&[byte; 4096]).unwrap();
        }
        assert_eq!(file.metadata().unwrap().len(), MIB + 4 * 4096);
        for byte in 1..=4 {
            let at = MIB + (u64::from(byte) - 1) * 4096;
            assert_eq!(content(&file, at, 4096), [byte; 4096], "{format:?}");
        }
        drop(file);
        export.stop();
        image.is_consistent();
    }
}

#[test]
fn a_growth_that_no_file_can_have_is_refused_and_changes_nothing() {
    for format in FORMATS {
        let image = image(format);
        let export = image.serve(&GROWABLE);
        let file = export.open();
        let outcome = seen(file.set_len(i64::MAX as u64));
        assert!(matches!(outcome, Err(Errno::FBIG | Errno::INVAL | Errno::NOSPC)), "{outcome:?}");
        assert_eq!(file.metadata().unwrap().len(), MIB, "{format:?}");
        assert_eq!(content(&file, MIB - 4096, 4096), [5; 4096]);
        drop(file);
        export.stop();
        image.is_consistent();
    }
}

#[test]
fn permission_bits_hold_for_other_users() {
    for (mode, expected) in
        [(0o600, Err(Errno::ACCESS)), (0o604, Ok(())), (0o640, Err(Errno::ACCESS))]
    {
        let outcome = as_qemu(
            || image(Format::Raw),
            &["--writable"],
            |file| {
                ROOT.does(|| fs::set_permissions(file, Permissions::from_mode(mode)).unwrap());
                NOBODY.does(|| seen(File::open(file).map(drop)))
            },
        );
        assert_eq!(outcome, expected, "{mode:o}");
    }
}
