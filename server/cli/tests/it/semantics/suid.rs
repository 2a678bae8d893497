//! Suid and sgid: who keeps them, and what takes them.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, copy_file_range, fallocate, ftruncate};
use rustix::io::Errno;

use super::alike;
use super::user::{MEMBER, NOBODY, ROOT, STAFF, User};
use crate::served::Served;

/// Suid, sgid and both.
const MODES: [u32; 3] = [0o4777, 0o2777, 0o6777];

/// Where sgid gives no rights, because the group may not execute. Members of the file's group keep it.
const MODES_WITHOUT_GROUP: [u32; 4] = [0o2767, 0o6766, 0o2666, 0o6666];

const OWNER: User = User { uid: 1, gid: 1, groups: &[], umask: 0o022 };
const OF_STAFF: User = User { uid: 4002, gid: STAFF, groups: &[], umask: 0o022 };
const OF_ROOTS_GROUP: User = User { uid: 4003, gid: 0, groups: &[], umask: 0o022 };
const OWNER_OF_STAFF: User = User { uid: 1, gid: STAFF, groups: &[], umask: 0o022 };
const USERS: [User; 7] = [ROOT, NOBODY, MEMBER, OWNER, OF_STAFF, OF_ROOTS_GROUP, OWNER_OF_STAFF];

/// Groups of files: the server's own is one as any other.
const GROUPS: [u32; 2] = [STAFF, 0];

type Change = fn(&Path) -> Result<(), Errno>;

/// Ways to change what a file contains, by an open one and by its path.
const CHANGES: [(&str, Change); 12] = [
    ("write", |path| open(path)?.write_all_at(b"new", 0).map_err(errno)),
    ("a large write", |path| open(path)?.write_all_at(&vec![1; 3 << 20], 0).map_err(errno)),
    ("append", |path| {
        use std::io::Write;
        let mut file = OpenOptions::new().append(true).open(path).map_err(errno)?;
        file.write_all(b"new").map_err(errno)
    }),
    ("truncate by path", |path| {
        let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("a path");
        truncate(&path)
    }),
    ("ftruncate", |path| ftruncate(open(path)?, 10)),
    ("ftruncate to a larger size", |path| ftruncate(open(path)?, 1 << 20)),
    ("O_TRUNC", |path| {
        let file = OpenOptions::new().write(true).truncate(true).open(path);
        file.map(drop).map_err(errno)
    }),
    ("fallocate", |path| fallocate(open(path)?, FallocateFlags::empty(), 0, 1 << 20)),
    ("fallocate behind the end", |path| {
        fallocate(open(path)?, FallocateFlags::KEEP_SIZE, 1 << 20, 1 << 20)
    }),
    ("punch", |path| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(open(path)?, flags, 0, 4096)
    }),
    ("zero", |path| fallocate(open(path)?, FallocateFlags::ZERO_RANGE, 0, 4096)),
    ("copy_file_range", |path| {
        let source = File::open(path.with_file_name("source")).map_err(errno)?;
        copy_file_range(source, Some(&mut 0), open(path)?, Some(&mut 100), 5000).map(drop)
    }),
];

#[test]
fn changes_of_content_take_them_from_whom_the_kernel_says() {
    alike(|dir| {
        fs::write(dir.join("source"), vec![2; 5000]).unwrap();
        let mut seen = Vec::new();
        for (user, group) in users_and_groups() {
            for mode in modes(user, group) {
                for (change, act) in CHANGES {
                    let file = new_file(dir, (1, group), mode);
                    let result = user.does(|| act(&file));
                    let (left, User { uid, gid, .. }) = (mode_of(&file), user);
                    let what = format!("{change} of {mode:o} {group} by {uid}:{gid}");
                    seen.push(format!("{what}: {left:o} {result:?}"));
                    fs::remove_file(&file).unwrap();
                }
            }
        }
        seen
    });
}

#[test]
fn who_is_in_the_group_by_another_group_than_the_first_loses_what_gives_no_rights() {
    // A request does not carry all groups of a caller: natively 0o2767 stays.
    let served = Served::new(&[]);
    let file = new_file(served.mounted(), (1, STAFF), 0o2767);
    MEMBER.does(|| open(&file).unwrap().write_all_at(b"new", 0).unwrap());
    assert_eq!(mode_of(&file), 0o767);
    served.stop();
}

fn users_and_groups() -> impl Iterator<Item = (User, u32)> {
    USERS.into_iter().flat_map(|user| GROUPS.map(|group| (user, group)))
}

fn new_file(dir: &Path, owner: (u32, u32), mode: u32) -> PathBuf {
    let file = dir.join("file");
    fs::write(&file, vec![1; 8192]).unwrap();
    chown(&file, Some(owner.0), Some(owner.1)).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    file
}

#[test]
fn a_privileged_change_does_not_take_them_for_a_moment() {
    let served = Served::new(&["--cache", "never"]);
    let path = new_file(served.mounted(), (1, STAFF), 0o6777);
    let host = served.backing().join("file");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !ended.load(Ordering::Relaxed) {
                seen.insert(mode_of(&host));
            }
            seen
        });
        let source = path.with_file_name("source");
        fs::write(source, vec![2; 5000]).unwrap();
        for (change, act) in CHANGES {
            for _ in 0..20 {
                act(&path).unwrap_or_else(|errno| panic!("{change}: {errno:?}"));
            }
        }
        ended.store(true, Ordering::Relaxed);
        assert_eq!(watcher.join().unwrap(), BTreeSet::from([0o6777]));
    });
    served.stop();
}

#[test]
fn an_open_file_loses_them_at_each_write_after_they_came() {
    alike(|dir| {
        let path = dir.join("file");
        fs::write(&path, "old").unwrap();
        chown(&path, Some(NOBODY.uid), Some(NOBODY.gid)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        NOBODY.does(|| {
            let file = open(&path).unwrap();
            [0o4777, 0o2777, 0o6755].map(|mode| {
                file.set_permissions(Permissions::from_mode(mode)).unwrap();
                let before = mode_of(&path);
                file.write_all_at(b"new", 0).unwrap();
                (before, mode_of(&path))
            })
        })
    });
}

#[test]
fn a_new_owner_takes_them() {
    alike(|dir| {
        let mut seen = Vec::new();
        let acts: [(User, Option<u32>, Option<u32>); 6] = [
            (ROOT, Some(7), Some(STAFF)),
            (ROOT, None, None),
            (MEMBER, Some(MEMBER.uid), Some(STAFF)),
            (MEMBER, None, Some(MEMBER.gid)),
            (MEMBER, Some(MEMBER.uid), None),
            (MEMBER, None, None),
        ];
        for (user, owner, group) in acts {
            for mode in modes(user, MEMBER.gid) {
                let path = new_file(dir, (MEMBER.uid, MEMBER.gid), mode);
                let result = user.does(|| chown(&path, owner, group).map_err(errno));
                seen.push(format!("{mode:o} by {} {result:?} {:o}", user.uid, mode_of(&path)));
                fs::remove_file(&path).unwrap();
            }
        }
        seen
    });
}

#[test]
fn chmod_sets_sgid_for_members_of_the_group_and_for_nobody_else() {
    alike(|dir| {
        let mut seen = Vec::new();
        for (name, is_dir) in [("file", false), ("dir", true)] {
            for user in [ROOT, MEMBER, User { groups: &[], ..MEMBER }, NOBODY] {
                let path = dir.join(name);
                if is_dir {
                    fs::create_dir(&path).unwrap()
                } else {
                    fs::write(&path, "").unwrap()
                }
                chown(&path, Some(MEMBER.uid), Some(STAFF)).unwrap();
                let result = user.does(|| {
                    let mode = Permissions::from_mode(0o6775);
                    fs::set_permissions(&path, mode).map_err(errno)
                });
                let who = (name, user.uid, user.groups.len());
                seen.push((who, result, mode_of(&path)));
                if is_dir {
                    fs::remove_dir(&path).unwrap()
                } else {
                    fs::remove_file(&path).unwrap()
                }
            }
        }
        seen
    });
}

fn modes(user: User, group: u32) -> impl Iterator<Item = u32> {
    let more = if user.groups.contains(&group) { &[] } else { &MODES_WITHOUT_GROUP[..] };
    MODES.iter().chain(more).copied()
}

fn open(path: &Path) -> Result<File, Errno> {
    OpenOptions::new().read(true).write(true).open(path).map_err(errno)
}

/// `truncate(2)`: std and rustix have it for open files only.
fn truncate(path: &std::ffi::CStr) -> Result<(), Errno> {
    super::sys::truncate(path, 100).map_err(errno)
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).expect("an error of the kernel")
}
