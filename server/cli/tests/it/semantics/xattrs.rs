//! Extended attributes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{
    CWD, FileType, Mode, XattrFlags, lgetxattr, lgetxattr_query, llistxattr, llistxattr_query,
    lremovexattr, lsetxattr, mknodat,
};

use super::alike;
use super::user::{NOBODY, ROOT};

const KINDS: [&str; 5] = ["file", "dir", "link", "fifo", "socket"];

fn make_kinds(dir: &Path) {
    let node = |name: &str, kind| mknodat(CWD, dir.join(name), kind, Mode::from(0o666), 0).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    fs::create_dir(dir.join("dir")).unwrap();
    symlink("file", dir.join("link")).unwrap();
    node("fifo", FileType::Fifo);
    node("socket", FileType::Socket);
}

#[test]
fn attributes_of_every_kind_of_file_are_as_natively() {
    alike(|dir| {
        make_kinds(dir);
        let names = [
            "user.name",
            "trusted.name",
            "security.name",
            "security.capability",
            "system.posix_acl_access",
            "system.other",
            "other",
            "user.",
        ];
        let mut seen = Vec::new();
        for kind in KINDS {
            let path = dir.join(kind);
            for user in [ROOT, NOBODY] {
                for name in names {
                    let results = user.does(|| {
                        let set = lsetxattr(&path, name, b"value", XattrFlags::empty());
                        let mut value = [0; 100];
                        let get = lgetxattr(&path, name, &mut value[..]);
                        let query = lgetxattr_query(&path, name);
                        let small = lgetxattr(&path, name, &mut [0; 2][..]);
                        let list = list(&path);
                        let removed = lremovexattr(&path, name);
                        let again = lremovexattr(&path, name);
                        format!(
                            "{set:?} {get:?} {query:?} {small:?} {list:?} {removed:?} {again:?}"
                        )
                    });
                    seen.push(format!("{kind} {} {name} {results}", user.uid));
                }
            }
        }
        seen
    });
}

#[test]
fn flags_sizes_and_limits_are_as_natively() {
    alike(|dir| {
        let path = dir.join("file");
        fs::write(&path, "").unwrap();
        let set = |name: &str, len: usize, flags| lsetxattr(&path, name, &vec![b'v'; len], flags);
        let create = XattrFlags::CREATE;
        let results = [
            set("user.a", 3, XattrFlags::REPLACE),
            set("user.a", 3, create),
            set("user.a", 3, create),
            set("user.a", 5, XattrFlags::REPLACE),
            set("user.empty", 0, create),
            set("user.large", 2000, create),
            set("user.larger", 10_000, create),
            set("user.largest", 65_536, create),
            set("user.too-large", 65_537, create),
            set(&format!("user.{}", "n".repeat(250)), 1, create),
            set(&format!("user.{}", "n".repeat(251)), 1, create),
        ];
        let mut names = [0; 4];
        let small_list = llistxattr(&path, &mut names[..]);
        let empty = lgetxattr(&path, "user.empty", &mut [0; 3][..]);
        (results, list(&path), llistxattr_query(&path), small_list, empty)
    });
}

#[test]
fn many_attributes_are_listed_all() {
    alike(|dir| {
        let path = dir.join("file");
        fs::write(&path, "").unwrap();
        let set: Vec<bool> = (0..40)
            .map(|number| {
                let name = format!("user.attribute-{number}");
                lsetxattr(&path, &*name, b"v", XattrFlags::CREATE).is_ok()
            })
            .collect();
        (set, list(&path), llistxattr_query(&path))
    });
}

fn list(path: &Path) -> rustix::io::Result<Vec<String>> {
    let mut names = vec![0; 65_536];
    let len = llistxattr(path, &mut names[..])?;
    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let mut names: Vec<String> =
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    names.sort();
    Ok(names)
}
