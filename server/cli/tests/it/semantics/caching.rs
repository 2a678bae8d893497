//! What a client sees of a change on the host, and what it may change itself.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::served::Served;

/// Longer than the second of `auto` on any machine.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn without_a_cache_every_change_of_the_host_is_seen_at_once() {
    let served = Served::new(&["--cache", "never"]);
    let (host, mounted) = (served.backing(), served.mounted());
    fs::write(host.join("file"), "old").unwrap();
    let open = File::open(mounted.join("file")).unwrap();
    for round in 0..50 {
        let content = "x".repeat(round + 1);
        fs::write(host.join("file"), &content).unwrap();
        assert_eq!(fs::read_to_string(mounted.join("file")).unwrap(), content);
        assert_eq!(open.metadata().unwrap().len(), round as u64 + 1);
        let mut bytes = vec![0; 100];
        assert_eq!(open.read_at(&mut bytes, 0).unwrap(), round + 1);

        let name = format!("new{round}");
        assert!(!mounted.join(&name).exists());
        fs::write(host.join(&name), "").unwrap();
        assert!(mounted.join(&name).exists());
        assert_eq!(fs::read_dir(mounted).unwrap().count(), 2);
        fs::rename(host.join(&name), host.join("moved")).unwrap();
        assert!(!mounted.join(&name).exists() && mounted.join("moved").exists());
        fs::remove_file(host.join("moved")).unwrap();
        assert_eq!(fs::read_dir(mounted).unwrap().count(), 1);
    }
    drop(open);
    served.stop();
}

#[test]
fn by_default_changes_of_the_host_are_seen_soon() {
    let served = Served::new(&["--cache", "auto"]);
    let (host, mounted) = (served.backing(), served.mounted());
    fs::write(host.join("file"), "old").unwrap();
    fs::write(host.join("gone"), "").unwrap();
    assert_eq!(fs::read_to_string(mounted.join("file")).unwrap(), "old");
    assert!(mounted.join("gone").exists());
    let open = File::open(mounted.join("file")).unwrap();

    fs::write(host.join("file"), "longer").unwrap();
    fs::remove_file(host.join("gone")).unwrap();
    fs::write(host.join("new"), "").unwrap();

    soon(|| fs::read_to_string(mounted.join("file")).unwrap() == "longer");
    soon(|| open.metadata().unwrap().len() == 6);
    soon(|| !mounted.join("gone").exists());
    assert!(mounted.join("new").exists(), "what does not exist is not remembered");
    // A file opened after the change has its content, also of the same size.
    fs::write(host.join("file"), "LONGER").unwrap();
    soon(|| fs::read_to_string(mounted.join("file")).unwrap() == "LONGER");
    drop(open);
    served.stop();
}

#[test]
fn what_is_cached_for_a_day_is_believed_until_the_client_changes_it() {
    for policy in ["metadata", "always"] {
        let served = Served::new(&["--cache", policy]);
        let (host, mounted) = (served.backing(), served.mounted());
        fs::write(host.join("file"), "old").unwrap();
        // Held, so that nobody's drop_caches makes the client forget it.
        let open = File::options().read(true).write(true).open(mounted.join("file")).unwrap();
        assert_eq!(open.metadata().unwrap().len(), 3);

        fs::write(host.join("file"), "longer").unwrap();

        assert_eq!(open.metadata().unwrap().len(), 3, "attributes are kept with {policy}");
        open.set_len(5).unwrap();
        assert_eq!(open.metadata().unwrap().len(), 5);
        assert_eq!(fs::read(host.join("file")).unwrap(), b"longe");
        drop(open);
        served.stop();
    }
}

#[test]
fn timeouts_on_the_command_line_go_before_the_policy() {
    let served = Served::new(&["--cache", "always", "--attr-timeout", "0"]);
    let path = served.mounted().join("file");
    fs::write(served.backing().join("file"), "old").unwrap();
    let open = File::open(path).unwrap();
    fs::write(served.backing().join("file"), "longer").unwrap();
    assert_eq!(open.metadata().unwrap().len(), 6);
    drop(open);
    served.stop();
}

#[test]
fn two_clients_without_a_cache_see_each_other_at_once() {
    let served = Served::new(&["--cache", "never"]);
    let path = served.mounted().join("file");
    let host = served.backing().join("file");
    let file = File::create_new(&path).unwrap();
    for round in 0..100_u64 {
        file.write_all_at(&round.to_ne_bytes(), 0).unwrap();
        assert_eq!(fs::read(&host).unwrap(), round.to_ne_bytes());
        fs::write(&host, (round + 1000).to_ne_bytes()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), (round + 1000).to_ne_bytes());
    }
    drop(file);
    served.stop();
}

#[test]
fn a_read_only_server_refuses_every_change() {
    let served = Served::new(&["--readonly"]);
    let host = served.backing();
    fs::write(host.join("file"), "content").unwrap();
    fs::create_dir(host.join("dir")).unwrap();
    std::os::unix::fs::symlink("file", host.join("link")).unwrap();
    let before = tree(host);
    let (file, dir) = (served.mounted().join("file"), served.mounted().join("dir"));
    let new = served.mounted().join("new");
    let write = |options: &mut fs::OpenOptions| options.open(&file).map(drop);

    let changes: [(&str, io::Result<()>); 17] = [
        ("write", write(File::options().write(true))),
        ("append", write(File::options().append(true))),
        ("truncate", write(File::options().write(true).truncate(true))),
        ("create", File::create(&new).map(drop)),
        ("tmpfile", {
            let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
            rustix::fs::open(&dir, flags, rustix::fs::Mode::RWXU).map(drop).map_err(Into::into)
        }),
        ("mkdir", fs::create_dir(&new)),
        ("symlink", std::os::unix::fs::symlink("x", &new)),
        ("link", fs::hard_link(&file, &new)),
        ("rename", fs::rename(&file, &new)),
        ("unlink", fs::remove_file(&file)),
        ("rmdir", fs::remove_dir(&dir)),
        ("chmod", {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))
        }),
        ("chown", std::os::unix::fs::chown(&file, Some(1), Some(1))),
        ("utimens", {
            let zero = rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: zero, last_modification: zero };
            let flags = rustix::fs::AtFlags::empty();
            rustix::fs::utimensat(rustix::fs::CWD, &file, &times, flags).map_err(Into::into)
        }),
        ("setxattr", {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&file, "user.x", b"y", flags).map_err(Into::into)
        }),
        ("removexattr", rustix::fs::removexattr(&file, "user.x").map_err(Into::into)),
        ("mknod", {
            let kind = rustix::fs::FileType::Fifo;
            let mode = rustix::fs::Mode::RWXU;
            rustix::fs::mknodat(rustix::fs::CWD, &new, kind, mode, 0).map_err(Into::into)
        }),
    ];

    for (change, result) in changes {
        let errno = result.expect_err(change).raw_os_error();
        assert_eq!(errno, Some(libc::EROFS), "{change}");
    }
    assert_eq!(tree(host), before);
    assert_eq!(fs::read(&file).unwrap(), b"content");
    assert_eq!(fs::read(served.mounted().join("link")).unwrap(), b"content");
    // Locks change nothing.
    let open = File::open(&file).unwrap();
    super::sys::lock(&open, libc::F_SETLK, libc::F_RDLCK, super::sys::ALL).expect("a lock");
    drop(open);
    served.stop();
}

fn tree(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut entries: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let stat = entry.metadata().unwrap();
            format!("{:?} {:o} {} {}", entry.path(), stat.mode(), stat.ctime_nsec(), stat.len())
        })
        .collect();
    entries.sort();
    entries
}

fn soon(seen: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !seen() {
        assert!(Instant::now() < deadline, "not seen after {SOON:?}");
        sleep(Duration::from_millis(50));
    }
}
