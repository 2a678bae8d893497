//! Whose something is that an ordinary user made, and with which permissions.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, linkat, mknodat, open};

use super::alike;
use super::user::{MEMBER, NOBODY, ROOT, STAFF, User};

/// Everything that can be made, and a stat of each.
fn make_all(dir: &Path) -> Vec<String> {
    let mode = Mode::from_raw_mode(0o666);
    let path = |name: &str| dir.join(name);
    let made: [(&str, std::io::Result<()>); 8] = [
        (
            "file",
            OpenOptions::new().write(true).create(true).truncate(true).open(path("file")).map(drop),
        ),
        ("exclusive", File::create_new(path("exclusive")).map(drop)),
        ("program", {
            let mut options = OpenOptions::new();
            options.write(true).create(true).mode(0o6777).open(path("program")).map(drop)
        }),
        ("dir", fs::create_dir(path("dir"))),
        ("link", symlink("target", path("link"))),
        ("fifo", mknodat(CWD, path("fifo"), FileType::Fifo, mode, 0).map_err(Into::into)),
        ("socket", UnixListener::bind(path("socket")).map(drop)),
        ("node", mknodat(CWD, path("node"), FileType::RegularFile, mode, 0).map_err(Into::into)),
    ];
    let mut seen: Vec<String> =
        made.iter().map(|(name, result)| describe(&path(name), result)).collect();
    seen.push(describe(&path("hard"), &fs::hard_link(path("file"), path("hard"))));
    let unnamed = open(dir, OFlags::TMPFILE | OFlags::RDWR, mode).and_then(|file| {
        let target = path("unnamed");
        let fd = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        linkat(CWD, fd, CWD, target, AtFlags::SYMLINK_FOLLOW)
    });
    seen.push(describe(&path("unnamed"), &unnamed.map_err(Into::into)));
    seen
}

fn describe(path: &Path, made: &std::io::Result<()>) -> String {
    let name = path.file_name().unwrap_or_default();
    match made {
        Err(error) => format!("{name:?} {:?}", error.raw_os_error()),
        Ok(()) => {
            let stat = fs::symlink_metadata(path).unwrap();
            format!("{name:?} {:o} {}:{} {}", stat.mode(), stat.uid(), stat.gid(), stat.nlink())
        }
    }
}

fn new_dir(dir: &Path, name: &str, owner: (u32, u32), mode: u32) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::create_dir(&path).unwrap();
    chown(&path, Some(owner.0), Some(owner.1)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

const USERS: [User; 4] = [ROOT, NOBODY, MEMBER, User { umask: 0o077, ..MEMBER }];

#[test]
fn what_users_make_is_theirs() {
    alike(|dir| {
        USERS.map(|user| {
            let place = new_dir(dir, &format!("{}-{:o}", user.uid, user.umask), (0, 0), 0o777);
            user.does(|| make_all(&place))
        })
    });
}

#[test]
fn what_is_made_in_a_sgid_directory_has_its_group() {
    alike(|dir| {
        USERS.map(|user| {
            let name = format!("{}-{:o}", user.uid, user.umask);
            let place = new_dir(dir, &name, (0, STAFF), 0o2777);
            let first = user.does(|| make_all(&place));
            // The new directory passes it on.
            (first, user.does(|| make_all(&place.join("dir"))))
        })
    });
}

#[test]
fn a_supplementary_group_lets_its_members_make_things() {
    alike(|dir| {
        let modes = [0o770, 0o2770];
        let users = [MEMBER, User { groups: &[], ..MEMBER }, NOBODY];
        modes.map(|mode| {
            users.map(|user| {
                let name = format!("{mode:o}-{}-{}", user.uid, user.groups.len());
                let place = new_dir(dir, &name, (0, STAFF), mode);
                user.does(|| make_all_or_errno(&place))
            })
        })
    });
}

fn make_all_or_errno(dir: &Path) -> Vec<String> {
    match File::create(dir.join("first")) {
        Ok(_) => make_all(dir),
        Err(error) => vec![format!("{:?}", error.raw_os_error())],
    }
}

#[test]
fn a_default_acl_replaces_the_umask() {
    alike(|dir| {
        let acls = [
            "d:u::rwx,d:g::rx,d:o::-",
            "d:u::rwx,d:u:4001:rwx,d:g::rx,d:m::rwx,d:o::r",
            "d:u::rw,d:g::-,d:g:4242:rwx,d:m::rx,d:o::-",
        ];
        let mut seen = Vec::new();
        for (number, acl) in acls.into_iter().enumerate() {
            for user in USERS {
                let name = format!("{number}-{}-{:o}", user.uid, user.umask);
                let place = new_dir(dir, &name, (0, STAFF), 0o2777);
                run(Command::new("setfacl").args(["-m", acl]).arg(&place));
                seen.push(user.does(|| make_all(&place)));
                seen.push(
                    run(Command::new("getfacl")
                        .args(["-Rpn", "--omit-header", "."])
                        .current_dir(&place))
                    .lines()
                    .map(str::to_owned)
                    .collect(),
                );
            }
        }
        seen
    });
}

#[test]
fn an_acl_lets_in_whom_it_names_and_keeps_sgid_as_the_kernel_says() {
    alike(|dir| {
        let path = dir.join("file");
        fs::write(&path, "content").unwrap();
        chown(&path, Some(1), Some(STAFF)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o2750)).unwrap();
        let before = NOBODY.does(|| fs::read(&path).is_ok());
        run(Command::new("setfacl").args(["-m", "u:65534:r"]).arg(&path));
        let after = NOBODY.does(|| fs::read(&path).is_ok());
        let by_root = fs::metadata(&path).unwrap().mode();
        chown(&path, Some(MEMBER.uid), Some(STAFF)).unwrap();
        let modes = [MEMBER, User { groups: &[], ..MEMBER }].map(|user| {
            fs::set_permissions(&path, Permissions::from_mode(0o2770)).unwrap();
            let ids = [format!("--reuid={}", user.uid), format!("--regid={}", user.gid)];
            let groups = match user.groups {
                [] => "--clear-groups".to_owned(),
                groups => format!("--groups={}", groups[0]),
            };
            let mut setpriv = Command::new("setpriv");
            setpriv.args(ids).arg(groups).args(["setfacl", "-m", "u:7:rw"]).arg(&path);
            run(&mut setpriv);
            fs::metadata(&path).unwrap().mode()
        });
        (before, after, by_root, modes)
    });
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("an installed program");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
