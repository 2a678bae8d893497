//! Bad input: one clear line, the right exit code, nothing left behind.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::mount::{Mount, is_mounted};
use crate::served::{FSRV, Served, directory};

/// The command line was wrong.
const USAGE: i32 = 2;

/// The command line was right, and what it asked for did not work.
const FAILURE: i32 = 1;

/// A directory, a mount point, and a copy of the server that any user may run.
struct Bench {
    place: TempDir,
    fsrv: PathBuf,
    dir: PathBuf,
    mountpoint: PathBuf,
}

/// Names from which a line feed would make two lines, and which a terminal would obey.
const UNPRINTABLE: &str = "line\nserving nothing: \u{1b}[2Jcleared \u{9b}31m";

/// The same as it is printed.
const PRINTED: &str = r"line\nserving nothing: \u{1b}[2Jcleared \u{9b}31m";

#[test]
fn names_with_control_characters_are_printed_escaped() {
    let bench = Bench::new();
    let odd = |name: &str| bench.place.path().join(format!("{name} {UNPRINTABLE}"));
    let missing = odd("none");
    bench.refused(
        FAILURE,
        &[&"--dir", &missing, &"--fuse", &bench.mountpoint],
        &[&format!("none {PRINTED}")],
    );
    bench.refused(USAGE, &[&UNPRINTABLE], &["see `fsrv serve --help`"]);

    let (dir, point) = (odd("dir"), odd("point"));
    fs::create_dir(&dir).expect("a directory");
    fs::create_dir(&point).expect("a mount point");
    for format in ["text", "json"] {
        let mount =
            Mount::serve(&bench.fsrv, &dir, &point, &["--log-format", format]).expect("a mount");
        // Whoever uses it is waited for, which the log says.
        let held = fs::File::create(point.join("held")).expect("a file");
        mount.signal(Signal::TERM).expect("a running server");
        let until = Instant::now() + Duration::from_secs(20);
        while !mount.log().expect("a log").contains("waiting") {
            assert!(Instant::now() < until, "{}", mount.log().expect("a log"));
            sleep(Duration::from_millis(20));
        }
        let log = mount.log().expect("a log");
        drop((held, mount));
        assert!(log.chars().all(|char| char == '\n' || !char.is_control()), "{format}: {log:?}");
        assert!(log.contains(&format!("dir {PRINTED} at")), "{format}: {log}");
        let in_log = match format {
            "text" => r"point line\nserving nothing: \x1b[2Jcleared \u{9b}31m is in use",
            _ => r"point line\nserving nothing: \u001b[2Jcleared \u009b31m is in use",
        };
        assert!(log.contains(in_log), "{format}: {log}");
    }
}

impl Bench {
    fn new() -> Self {
        let place = directory();
        let at = |name| place.path().join(name);
        let (fsrv, dir, mountpoint) = (at("fsrv"), at("dir"), at("mountpoint"));
        fs::copy(FSRV, &fsrv).expect("a copy of the server");
        fs::create_dir(&dir).expect("a directory");
        fs::create_dir(&mountpoint).expect("a mount point");
        Self { place, fsrv, dir, mountpoint }
    }

    fn refused(&self, code: i32, args: &[&dyn AsRef<OsStr>], words: &[&str]) {
        let mut command = Command::new(&self.fsrv);
        command.arg("serve").args(args.iter().map(|arg| arg.as_ref()));
        self.refuses(command, code, words);
    }

    /// As an ordinary user, behind `before`: programs that change the server's world.
    fn refused_to_user(&self, before: &str, args: &[&dyn AsRef<OsStr>], words: &[&str]) {
        std::os::unix::fs::chown(&self.mountpoint, Some(1001), Some(1001))
            .expect("the user's mount point");
        // Not every machine lets its users open the device; this one has to.
        let device = self.place.path().join("fuse");
        mknodat(CWD, &device, FileType::CharacterDevice, Mode::empty(), makedev(10, 229))
            .expect("a device");
        fs::set_permissions(&device, Permissions::from_mode(0o666)).expect("a device for all");
        let before = format!("mount --bind {} /dev/fuse; {before}", device.display());
        let script = format!(
            "{before} exec setpriv --reuid=1001 --regid=1001 --clear-groups \"$0\" serve \"$@\""
        );
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", &script])
            .arg(&self.fsrv)
            .args(args.iter().map(|arg| arg.as_ref()));
        self.refuses(command, FAILURE, words);
    }

    fn refuses(&self, mut command: Command, code: i32, words: &[&str]) {
        let before = names(self.place.path());
        // A server that accepts the input must not keep the test waiting.
        let mut limited = Command::new("timeout");
        limited.args(["--kill-after=2", "10"]).arg(command.get_program()).args(command.get_args());
        command = limited;
        let output = command.stdin(Stdio::null()).output().expect("timeout runs");
        let said = String::from_utf8_lossy(&output.stderr);

        assert_eq!(output.status.code(), Some(code), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "not one line: {said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in {said:?}");
        }
        assert!(output.stdout.is_empty(), "an error belongs to stderr");
        assert_eq!(names(self.place.path()), before, "a file was left");
        assert!(!is_mounted(&self.mountpoint).expect("the list of mounts"), "a mount was left");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if is_mounted(&self.mountpoint).unwrap_or(false) {
            // The directory below cannot go otherwise.
            let _ = rustix::mount::unmount(&self.mountpoint, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// What lies beside the directory and the mount point.
fn names(place: &Path) -> BTreeSet<OsString> {
    fs::read_dir(place)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect()
}

#[test]
fn directory_that_is_missing() {
    let bench = Bench::new();
    let missing = bench.place.path().join("missing");
    bench.refused(
        FAILURE,
        &[&"--fuse", &bench.mountpoint, &"--dir", &missing],
        &["missing", "No such file"],
    );
}

#[test]
fn directory_that_is_a_file() {
    let bench = Bench::new();
    let file = bench.place.path().join("file");
    fs::write(&file, "").expect("a file");
    bench.refused(
        FAILURE,
        &[&"--fuse", &bench.mountpoint, &"--dir", &file],
        &["file", "ot a directory"],
    );
}

#[test]
fn directory_that_the_user_may_not_read() {
    let bench = Bench::new();
    fs::set_permissions(&bench.dir, Permissions::from_mode(0o700)).expect("a closed directory");
    bench.refused_to_user(
        "",
        &[&"--fuse", &bench.mountpoint, &"--dir", &bench.dir],
        &["dir", "ermission denied"],
    );
}

#[test]
fn mount_point_that_is_missing() {
    let bench = Bench::new();
    let missing = bench.place.path().join("missing");
    bench.refused(
        FAILURE,
        &[&"--fuse", &missing, &"--dir", &bench.dir],
        &["missing", "No such file"],
    );
    assert!(!missing.exists());
}

#[test]
fn mount_point_that_is_a_file() {
    let bench = Bench::new();
    let file = bench.place.path().join("file");
    fs::write(&file, "").expect("a file");
    bench.refused(FAILURE, &[&"--fuse", &file, &"--dir", &bench.dir], &["file", "ot a directory"]);
}

#[test]
fn mount_point_that_is_mounted_already() {
    let (bench, served) = (Bench::new(), Served::new(&[]));
    let words = ["already", &served.mounted().display().to_string()];
    bench.refused(FAILURE, &[&"--fuse", &served.mounted(), &"--dir", &bench.dir], &words);
    served.stop();
}

#[test]
fn mount_point_that_is_dead() {
    let (bench, mut served) = (Bench::new(), Served::new(&[]));
    served.mount.kill().expect("a dead server");
    let words = ["Transport endpoint is not connected", "umount"];
    bench.refused(FAILURE, &[&"--fuse", &served.mounted(), &"--dir", &bench.dir], &words);
}

#[test]
fn mount_point_inside_the_directory() {
    let bench = Bench::new();
    bench.refused(
        FAILURE,
        &[&"--fuse", &bench.mountpoint, &"--dir", &bench.place.path()],
        &["inside"],
    );
}

#[test]
fn directory_inside_the_mount_point() {
    let bench = Bench::new();
    let inside = bench.mountpoint.join("inside-it");
    fs::create_dir(&inside).expect("a directory");
    bench.refused(FAILURE, &[&"--fuse", &bench.mountpoint, &"--dir", &inside], &["inside"]);
}

#[test]
fn command_line_without_a_directory() {
    let bench = Bench::new();
    bench.refused(USAGE, &[&"--fuse", &bench.mountpoint], &["--dir"]);
}

#[test]
fn command_line_without_a_mount_point() {
    let bench = Bench::new();
    bench.refused(USAGE, &[&"--dir", &bench.dir], &["--fuse"]);
}

#[test]
fn option_given_twice() {
    let bench = Bench::new();
    let args: [&dyn AsRef<OsStr>; 6] =
        [&"--fuse", &bench.mountpoint, &"--dir", &bench.dir, &"--dir", &bench.dir];
    bench.refused(USAGE, &args, &["--dir"]);
}

#[test]
fn option_with_a_value_it_does_not_take() {
    let bench = Bench::new();
    for (option, value) in [
        ("--cache", "sometimes"),
        ("--io-engine", "steam"),
        ("--inode-file-handles", "perhaps"),
        ("--workers", "0"),
        ("--attr-timeout", "-1"),
        ("--attr-timeout", "nan"),
        ("--rlimit-nofile", "many"),
        ("--log-format", "prose"),
    ] {
        let option_and_value = format!("{option}={value}");
        let args: [&dyn AsRef<OsStr>; 5] =
            [&"--fuse", &bench.mountpoint, &"--dir", &bench.dir, &option_and_value];
        bench.refused(USAGE, &args, &[option, value]);
    }
}

#[test]
fn option_that_does_not_exist() {
    let bench = Bench::new();
    let args: [&dyn AsRef<OsStr>; 5] =
        [&"--fuse", &bench.mountpoint, &"--dir", &bench.dir, &"--fast"];
    bench.refused(USAGE, &args, &["--fast"]);
}

#[test]
fn user_without_fusermount3() {
    let bench = Bench::new();
    let hidden = "for file in /bin/fusermount3 /usr/bin/fusermount3; do mount --bind /dev/null $file; done 2>&-;";
    bench.refused_to_user(
        hidden,
        &[&"--fuse", &bench.mountpoint, &"--dir", &bench.dir],
        &["fusermount3"],
    );
}

#[test]
fn user_whom_the_machine_does_not_allow_others() {
    let bench = Bench::new();
    let args: [&dyn AsRef<OsStr>; 6] =
        [&"--fuse", &bench.mountpoint, &"--dir", &bench.dir, &"--allow-other", &"on"];
    let forbidden = "touch /etc/fuse.conf; mount --bind /dev/null /etc/fuse.conf;";
    bench.refused_to_user(forbidden, &args, &["user_allow_other"]);
}

#[test]
fn a_server_without_descriptors_to_unmount_with_does_not_mount() {
    let bench = Bench::new();
    let image = bench.place.path().join("image");
    fs::write(&image, [0; 4096]).unwrap();
    let point = bench.place.path().join("point");
    fs::write(&point, "").unwrap();
    let socket = bench.place.path().join("socket");
    let limit: &dyn AsRef<OsStr> = &"--nofile=20:20";
    let serve: [&[&dyn AsRef<OsStr>]; 3] = [
        &[&"--fuse", &bench.mountpoint, &"--dir", &bench.dir],
        &[&"--fuse", &point, &"--image", &image],
        &[&"--vhost-user", &socket, &"--dir", &bench.dir],
    ];
    for args in serve {
        let mut command = Command::new("prlimit");
        command.arg(limit).arg(&bench.fsrv).arg("serve");
        command.args(args.iter().map(|arg| arg.as_ref()));
        bench.refuses(command, FAILURE, &["only 20 descriptors", "at least", "ulimit -n"]);
        assert!(!socket.exists());
        let too_few = ["--rlimit-nofile", "64"].map(OsStr::new);
        let mut command = Command::new(&bench.fsrv);
        command.arg("serve").args(args.iter().map(|arg| arg.as_ref())).args(too_few);
        bench.refuses(command, FAILURE, &["only 64 descriptors", "--rlimit-nofile"]);
    }
    bench.refused_to_user(
        "ulimit -n 20;",
        &[&"--fuse", &bench.mountpoint, &"--dir", &bench.dir],
        &["only 20 descriptors"],
    );
}
