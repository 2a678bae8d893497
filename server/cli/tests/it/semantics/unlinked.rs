//! Files and directories that have lost their names.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags, fallocate,
    fgetxattr, fsetxattr, futimens, linkat, mkdir, open, statat,
};

use super::alike;
use super::sys::Mapping;
use super::user::NOBODY;

#[test]
fn everything_works_on_an_open_file_without_a_name() {
    alike(|dir| {
        let path = dir.join("file");
        let file = new_file(&path);
        fs::remove_file(&path).unwrap();
        // Another file of that name is another file.
        fs::write(&path, "other").unwrap();
        work_on(&file)
    });
}

#[test]
fn everything_works_on_a_file_that_never_had_a_name() {
    alike(|dir| {
        let unnamed = open(dir, OFlags::TMPFILE | OFlags::RDWR, Mode::from_raw_mode(0o640));
        let file = File::from(unnamed.unwrap());
        file.write_all_at(b"content", 0).unwrap();
        work_on(&file)
    });
}

fn work_on(file: &File) -> Vec<String> {
    let mut seen = Vec::new();
    let mut note = |what: &str, result: std::io::Result<()>| {
        let stat = file.metadata().unwrap();
        seen.push(format!(
            "{what} {:?}: {:o} {}:{} {} bytes, {} names",
            result.map_err(|error| error.raw_os_error()),
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.len(),
            stat.nlink(),
        ));
    };
    note("write", file.write_all_at(&[7; 100_000], 3));
    let mut bytes = [0; 10];
    note("read", file.read_exact_at(&mut bytes, 99_000));
    note("ftruncate", file.set_len(500));
    note("fallocate", fallocate(file, FallocateFlags::empty(), 0, 5000).map_err(Into::into));
    note("fchmod", file.set_permissions(Permissions::from_mode(0o604)));
    note("fchown", std::os::unix::fs::fchown(file, Some(3), Some(4)));
    let time = Timespec { tv_sec: 5, tv_nsec: 6 };
    let times = Timestamps { last_access: time, last_modification: time };
    note("futimens", futimens(file, &times).map_err(Into::into));
    let set = fsetxattr(file, "user.name", b"value", XattrFlags::empty());
    note("fsetxattr", set.map_err(Into::into));
    let mut value = [0; 16];
    let get = fgetxattr(file, "user.name", &mut value[..]);
    note("fgetxattr", get.map(drop).map_err(Into::into));
    note("fsync", file.sync_all());
    let mut mapping = Mapping::new(file, 4096).unwrap();
    mapping.write(10, b'm');
    note("msync", mapping.sync().map_err(Into::into));
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    note("open again", File::options().write(true).open(again).map(drop));
    seen
}

#[test]
fn an_unnamed_file_gets_a_name_unless_it_was_made_without_that_right() {
    alike(|dir| {
        [OFlags::empty(), OFlags::EXCL].map(|more| {
            let flags = OFlags::TMPFILE | OFlags::RDWR | more;
            let file = open(dir, flags, Mode::from_raw_mode(0o640)).unwrap();
            let to = dir.join(format!("named-{}", more.bits()));
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            let links = [
                linkat(&file, "", CWD, &to, AtFlags::EMPTY_PATH),
                linkat(CWD, &path, CWD, to.with_extension("2"), AtFlags::SYMLINK_FOLLOW),
            ];
            let stat = File::from(file).metadata().unwrap();
            (links, stat.nlink(), fs::metadata(&to).map(|stat| stat.mode()).ok())
        })
    });
}

#[test]
fn a_removed_working_directory_still_is_one() {
    alike(|dir| {
        let sub = dir.join("sub");
        fs::create_dir(&sub).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                super::sys::own_umask().unwrap();
                std::env::set_current_dir(&sub).unwrap();
                fs::remove_dir(&sub).unwrap();
                let stat = statat(CWD, ".", AtFlags::empty()).map(|s| (s.st_mode, s.st_nlink));
                let above = statat(CWD, "..", AtFlags::empty()).map(|s| s.st_ino);
                (
                    stat,
                    above == rustix::fs::stat(dir).map(|stat| stat.st_ino),
                    mkdir("new", Mode::RWXU),
                    File::create("file").map(drop).map_err(|error| error.raw_os_error()),
                    rustix::process::getcwd(Vec::new()).map(drop),
                    fs::read_dir(".").map(Iterator::count).map_err(|error| error.raw_os_error()),
                )
            });
            inside.join().unwrap()
        })
    });
}

#[test]
fn a_directory_replaced_by_a_rename_can_still_be_looked_at() {
    alike(|dir| {
        fs::create_dir(dir.join("old")).unwrap();
        fs::create_dir(dir.join("new")).unwrap();
        let old = open(dir.join("old"), OFlags::PATH, Mode::empty()).unwrap();
        fs::rename(dir.join("new"), dir.join("old")).unwrap();
        let stat = rustix::fs::fstat(&old);
        stat.map(|stat| (stat.st_mode, stat.st_nlink))
    });
}

#[test]
fn permissions_are_asked_for_at_open_and_never_again() {
    alike(|dir| {
        let path = dir.join("file");
        let file = new_file(&path);
        chown(&path, Some(NOBODY.uid), Some(NOBODY.gid)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
        let by_user = NOBODY.does(|| {
            let opened = File::open(&path).map(drop).map_err(|error| error.raw_os_error());
            let written = file.write_all_at(b"new", 0).is_ok();
            let mut bytes = [0; 3];
            (opened, written, file.read_exact_at(&mut bytes, 0).is_ok(), bytes)
        });
        (by_user, fs::read(&path).unwrap().len(), fs::metadata(&path).unwrap().mode())
    });
}

#[test]
fn a_file_may_be_made_without_the_right_to_open_it_again() {
    alike(|dir| {
        NOBODY.does(|| {
            let path = dir.join("file");
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
            let file = File::from(open(&path, flags, Mode::empty()).unwrap());
            file.write_all_at(b"content", 0).unwrap();
            let again = File::open(&path).map(drop).map_err(|error| error.raw_os_error());
            (again, file.metadata().unwrap().mode(), file.set_len(3).is_ok())
        })
    });
}

fn new_file(path: &Path) -> File {
    fs::write(path, "content").unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}
