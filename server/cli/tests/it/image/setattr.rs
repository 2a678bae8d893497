//! What `chmod`, `chown` and `touch` can change of an export.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::SystemTime;

use rustix::io::Errno;

use super::export::{Format, Image, MIB, as_qemu, seen};

type Outcome = Result<(), Errno>;

fn image() -> Image {
    Image::new(Format::Raw, MIB)
}

/// Tries `modes` one after the other. Returns what became of each, and the mode after it.
fn chmod(file: &Path, modes: &[u32]) -> Vec<(u32, Outcome, u32)> {
    let change = |&mode: &u32| {
        let outcome = seen(fs::set_permissions(file, Permissions::from_mode(mode)));
        (mode, outcome, fs::metadata(file).unwrap().mode() & 0o7777)
    };
    modes.iter().map(change).collect()
}

#[test]
fn a_read_only_export_can_be_made_readable_but_not_writable() {
    let seen = as_qemu(image, &[], |file| chmod(file, &[0o444, 0o600, 0o422, 0o555, 0o000]));
    let expected = [
        (0o444, Ok(()), 0o444),
        (0o600, Err(Errno::ROFS), 0o444),
        (0o422, Err(Errno::ROFS), 0o444),
        (0o555, Ok(()), 0o555),
        (0o000, Ok(()), 0o000),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_writable_export_takes_any_mode() {
    let seen = as_qemu(image, &["--writable"], |file| chmod(file, &[0o666, 0o640, 0o4755, 0o200]));
    let expected = [
        (0o666, Ok(()), 0o666),
        (0o640, Ok(()), 0o640),
        (0o4755, Ok(()), 0o4755),
        (0o200, Ok(()), 0o200),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn without_other_users_only_the_owner_gets_permissions() {
    let args = ["--writable", "--allow-other", "off"];
    let seen = as_qemu(image, &args, |file| chmod(file, &[0o640, 0o604, 0o700, 0o400]));
    let expected = [
        (0o640, Err(Errno::PERM), 0o600),
        (0o604, Err(Errno::PERM), 0o600),
        (0o700, Ok(()), 0o700),
        (0o400, Ok(()), 0o400),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn the_rule_about_other_users_comes_before_the_one_about_writing() {
    let seen =
        as_qemu(image, &["--allow-other", "off"], |file| chmod(file, &[0o622, 0o600, 0o500]));
    let expected = [
        (0o622, Err(Errno::PERM), 0o400),
        (0o600, Err(Errno::ROFS), 0o400),
        (0o500, Ok(()), 0o500),
    ];
    assert_eq!(seen, expected);
}

/// Tries to give the file away. Returns what became of it, and who owns it then.
fn give_away(file: &Path) -> [(Outcome, u32, u32); 3] {
    [(Some(7), Some(8)), (Some(9), None), (None, Some(10))].map(|(uid, gid)| {
        let outcome = seen(chown(file, uid, gid));
        let stat = fs::metadata(file).unwrap();
        (outcome, stat.uid(), stat.gid())
    })
}

#[test]
fn with_other_users_the_owner_can_be_changed() {
    for args in [&["--allow-other", "on"][..], &["--writable"]] {
        let seen = as_qemu(image, args, give_away);
        assert_eq!(seen, [(Ok(()), 7, 8), (Ok(()), 9, 8), (Ok(()), 9, 10)]);
    }
}

#[test]
fn without_other_users_the_owner_cannot_be_changed() {
    let seen = as_qemu(image, &["--writable", "--allow-other", "off"], give_away);
    assert_eq!(seen, [(Err(Errno::OPNOTSUPP), 0, 0); 3]);
}

#[test]
fn times_cannot_be_set() {
    for args in [&[][..], &["--writable"]] {
        let outcome = as_qemu(image, args, |file| {
            let file = File::open(file).unwrap();
            seen(file.set_modified(SystemTime::UNIX_EPOCH))
        });
        assert_eq!(outcome, Err(Errno::OPNOTSUPP));
    }
}

#[test]
fn what_was_set_is_forgotten_with_the_server() {
    let image = image();
    let export = image.serve(&[]);
    fs::set_permissions(export.file(), Permissions::from_mode(0o444)).unwrap();
    export.stop();
    let export = image.serve(&[]);
    assert_eq!(fs::metadata(export.file()).unwrap().mode(), 0o100_400);
    export.stop();
    assert_ne!(fs::metadata(image.point()).unwrap().mode() & 0o777, 0o444, "the point was changed");
}

#[test]
fn extended_attributes_are_not_supported() {
    let outcomes = as_qemu(image, &["--writable"], |file| {
        let set = rustix::fs::setxattr(file, "user.x", b"1", rustix::fs::XattrFlags::empty());
        (set, rustix::fs::getxattr(file, "user.x", &mut [0u8; 9]))
    });
    assert_eq!(outcomes, (Err(Errno::OPNOTSUPP), Err(Errno::OPNOTSUPP)));
}
