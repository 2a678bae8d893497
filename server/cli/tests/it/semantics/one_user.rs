//! A server that an ordinary user runs.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use std::process::Command;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::Signal;

use super::user::{NOBODY, User};
use crate::served::{FSRV, Served};

/// Tells a test binary that it has a mount namespace of its own.
const INSIDE: &str = "FSRV_TEST_NAMESPACE";

#[test]
fn a_server_of_an_ordinary_user_serves_that_user() {
    // Not every machine lets its users open /dev/fuse; in a namespace of its own it has to.
    let output = Command::new("unshare")
        .arg("--mount")
        .arg(std::env::current_exe().expect("this binary"))
        .args(["--exact", "semantics::one_user::in_a_namespace", "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("all parts are done"), "{said}");
}

/// Not a test: what the one above does.
#[test]
#[ignore = "another test starts it"]
fn in_a_namespace() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let place = crate::served::directory();
    let device = place.path().join("device");
    mknodat(CWD, &device, FileType::CharacterDevice, Mode::empty(), makedev(10, 229)).unwrap();
    fs::set_permissions(&device, Permissions::from_mode(0o666)).unwrap();
    rustix::mount::mount_bind(&device, "/dev/fuse").unwrap();
    the_user_is_served();
    the_user_may_no_more_than_without_a_server();
    who_can_start_no_program_unmounts_when_it_can();
    println!("all parts are done");
}

fn the_user_is_served() {
    // What runs it is a program of its own, because the server's binary may be where only root looks.
    let place = crate::served::directory();
    let served = Served::by(&runner(place.path()), &[]);
    let mounted = served.mounted();
    let (uid, gid) = (NOBODY.uid, NOBODY.gid);

    let seen = NOBODY.does(|| {
        fs::create_dir(mounted.join("dir")).unwrap();
        File::create_new(mounted.join("dir/file")).unwrap().write_all(b"content").unwrap();
        std::os::unix::fs::symlink("dir/file", mounted.join("link")).unwrap();
        fs::rename(mounted.join("dir/file"), mounted.join("dir/moved")).unwrap();
        fs::hard_link(mounted.join("dir/moved"), mounted.join("dir/file")).unwrap();
        fs::set_permissions(mounted.join("dir/file"), Permissions::from_mode(0o640)).unwrap();
        let names = fs::read_dir(mounted.join("dir")).unwrap().count();
        let owner = chown(mounted.join("link"), Some(0), None).map_err(|e| e.raw_os_error());
        (fs::read(mounted.join("link")).unwrap(), names, owner)
    });

    assert_eq!(seen, (b"content".to_vec(), 2, Err(Some(libc::EPERM))));
    let stat = fs::metadata(served.backing().join("dir/file")).unwrap();
    assert_eq!((stat.uid(), stat.gid(), stat.mode(), stat.nlink()), (uid, gid, 0o100_640, 2));
    // Nobody else gets in: not even root.
    let other = User { uid: 4001, gid: 4001, groups: &[], umask: 0o022 };
    for user in [other, super::user::ROOT] {
        let refused = user.does(|| fs::metadata(mounted.join("link")).map(drop));
        assert_eq!(refused.map_err(|error| error.raw_os_error()), Err(Some(libc::EACCES)));
    }
    served.stop();
}

fn the_user_may_no_more_than_without_a_server() {
    let place = crate::served::directory();
    let served = Served::by(&runner(place.path()), &["--cache", "never"]);
    fs::write(served.backing().join("secret"), "of root").unwrap();
    fs::set_permissions(served.backing().join("secret"), Permissions::from_mode(0o600)).unwrap();
    let errnos = NOBODY.does(|| {
        let path = served.mounted().join("secret");
        let errno = |result: std::io::Result<()>| result.map_err(|error| error.raw_os_error());
        [errno(File::open(&path).map(drop)), errno(fs::write(&path, "x"))]
    });
    assert_eq!(errnos, [Err(Some(libc::EACCES)); 2]);
    served.stop();
}

fn who_can_start_no_program_unmounts_when_it_can() {
    let place = crate::served::directory();
    let mut served = Served::by(&runner(place.path()), &[]);
    let ids = [format!("--reuid={}", NOBODY.uid), format!("--regid={}", NOBODY.gid)];
    let limit_to = |processes: &str| {
        let mut command = Command::new("setpriv");
        command.args(&ids).args(["--clear-groups", "prlimit", "--pid"]);
        command.arg(served.mount.pid().to_string()).arg(format!("--nproc={processes}:"));
        assert!(command.status().unwrap().success());
    };
    // The user has more threads, so that fusermount3 cannot be started.
    limit_to("1");
    served.mount.signal(Signal::TERM).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    limit_to("1000");
    served.mount.ended().unwrap();
}

/// A script that becomes the server of an ordinary user.
fn runner(dir: &Path) -> std::path::PathBuf {
    let (server, script) = (dir.join("fsrv"), dir.join("run"));
    fs::copy(FSRV, &server).expect("room for a copy");
    let ids = format!("--reuid={} --regid={} --clear-groups", NOBODY.uid, NOBODY.gid);
    let text = format!("#!/bin/sh\nexec setpriv {ids} '{}' \"$@\"\n", server.display());
    fs::write(&script, text).expect("a script");
    fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("a program");
    script
}
