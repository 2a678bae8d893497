//! Run as `mount.fuse.fsrv`, as mount(8) runs it for a line of fstab.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use crate::mount::is_mounted;
use crate::served::{FSRV, directory};

/// How long a server may live after its mount is gone.
const END_LIMIT: Duration = Duration::from_secs(8);

struct Line {
    place: TempDir,
    dir: PathBuf,
    mountpoint: PathBuf,
}

impl Line {
    fn new() -> Self {
        let place = directory();
        let (dir, mountpoint) = (place.path().join("dir"), place.path().join("mountpoint"));
        fs::create_dir(&dir).expect("a directory");
        fs::create_dir(&mountpoint).expect("a mount point");
        fs::copy(FSRV, place.path().join("mount.fuse.fsrv")).expect("a copy of the server");
        Self { place, dir, mountpoint }
    }

    fn program(&self) -> PathBuf {
        self.place.path().join("mount.fuse.fsrv")
    }

    /// Returns when the program does. What it leaves running must not hold our streams.
    fn mount(&self, options: &str) -> ExitStatus {
        let mut command = Command::new("timeout");
        command
            .arg("10")
            .arg(self.program())
            .arg(&self.dir)
            .arg(&self.mountpoint)
            .args(["-o", options]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().expect("timeout runs")
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Without its mount the server ends by itself.
        while is_mounted(&self.mountpoint).unwrap_or(false) {
            if unmount(&self.mountpoint, UnmountFlags::DETACH).is_err() {
                break;
            }
        }
    }
}

/// Whether a process runs `program`.
fn runs(program: &Path) -> bool {
    let processes = fs::read_dir("/proc").expect("the processes").flatten();
    processes
        .map(|process| process.path().join("exe"))
        .any(|exe| fs::read_link(exe).is_ok_and(|exe| exe == program))
}

#[test]
fn line_of_fstab_is_mounted_when_the_program_returns() {
    let line = Line::new();
    fs::write(line.dir.join("file"), "served").expect("a file");

    let status = line.mount("defaults,nofail,_netdev,x-systemd.automount,cache=never,workers=1");

    assert!(status.success(), "{status}");
    assert!(is_mounted(&line.mountpoint).expect("the list of mounts"));
    assert_eq!(fs::read_to_string(line.mountpoint.join("file")).expect("a served file"), "served");
    fs::write(line.mountpoint.join("file"), "changed").expect("a writable mount");
}

#[test]
fn line_of_fstab_may_ask_for_read_only() {
    let line = Line::new();
    assert!(line.mount("ro").success());
    let error = fs::create_dir(line.mountpoint.join("new")).expect_err("a read-only mount");
    assert_eq!(error.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
}

#[test]
fn server_of_an_fstab_line_ends_with_its_mount() {
    let line = Line::new();
    assert!(line.mount("rw").success());
    assert!(runs(&line.program()));

    unmount(&line.mountpoint, UnmountFlags::empty()).expect("an idle mount");

    let deadline = Instant::now() + END_LIMIT;
    while runs(&line.program()) {
        assert!(Instant::now() < deadline, "the server outlives its mount");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn line_of_fstab_with_a_wrong_option_fails() {
    let line = Line::new();
    assert!(!line.mount("cache=sometimes").success());
    assert!(!is_mounted(&line.mountpoint).expect("the list of mounts"));
    assert!(!runs(&line.program()));
}

#[test]
fn called_with_two_paths_it_is_a_mount_program() {
    let line = Line::new();
    fs::write(line.dir.join("file"), "served").expect("a file");
    let mut command = Command::new(FSRV);
    command.arg(&line.dir).arg(&line.mountpoint).args(["-o", "rw,dev,suid,max_read=131072"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("it runs").success());
    assert_eq!(fs::read_to_string(line.mountpoint.join("file")).expect("a served file"), "served");
}

#[test]
fn a_remount_makes_it_read_only_and_back() {
    let line = Line::new();
    assert!(line.mount("cache=never").success());
    assert!(line.mount("cache=never,remount,ro").success());
    let error = fs::create_dir(line.mountpoint.join("new")).expect_err("a read-only mount");
    assert_eq!(error.raw_os_error(), Some(Errno::ROFS.raw_os_error()));

    assert!(line.mount("remount,rw").success());

    fs::create_dir(line.mountpoint.join("new")).expect("a writable mount");
}

/// What people type: each line must succeed. It runs in a mount namespace of its own, where `/usr/local/bin` has
/// nothing but fsrv.
const TYPED: &str = r#"
    set -e
    mount --bind $PLACE/bin /usr/local/bin
    mount -t fuse.fsrv $PLACE/dir $PLACE/mountpoint -o nosuid,nonempty,auto_unmount,x-gvfs-hide
    grep -q '^served$' $PLACE/mountpoint/file
    mount -o remount,ro $PLACE/mountpoint
    if touch $PLACE/mountpoint/new; then exit 1; fi
    mount -o remount,rw,noatime $PLACE/mountpoint
    touch $PLACE/mountpoint/new
    grep -qF "$PLACE/mountpoint fuse.fsrv rw,nosuid,noatime" /proc/mounts
    umount $PLACE/mountpoint
    mount -t fuse fsrv#$PLACE/dir $PLACE/mountpoint
    grep -q '^served$' $PLACE/mountpoint/file
    umount $PLACE/mountpoint
    if mount -t fuse.fsrv $PLACE/dir $PLACE/mountpoint -o uid=1000; then exit 1; fi
    if grep -F "$PLACE/mountpoint fuse" /proc/mounts; then exit 1; fi
"#;

#[test]
fn mount_8_finds_it_as_a_type_and_as_a_prefix() {
    let line = Line::new();
    fs::write(line.dir.join("file"), "served\n").expect("a file");
    fs::create_dir(line.place.path().join("bin")).expect("a directory");
    fs::copy(FSRV, line.place.path().join("bin/fsrv")).expect("a copy of the server");
    let mut command = Command::new("timeout");
    command.args(["30", "unshare", "-m", "sh", "-xc", TYPED]).env("PLACE", line.place.path());
    // A server that stays must not hold our streams.
    let log = fs::File::create(line.place.path().join("log")).expect("a log");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);

    let status = command.status().expect("timeout runs");

    let said = fs::read_to_string(line.place.path().join("log")).expect("a log");
    assert!(status.success(), "{said}");
    assert!(said.contains("auto_unmount") && said.contains("X-mount.idmap"), "{said}");
}

/// A mount namespace in which `/dev` has what a server needs, and the log of the test.
const WITH_A_LOG: &str = r"
    set -e
    mkdir $PLACE/dev
    mount -t tmpfs none $PLACE/dev
    for device in null fuse log; do touch $PLACE/dev/$device; done
    for device in null fuse; do mount --bind /dev/$device $PLACE/dev/$device; done
    mount --bind $PLACE/log $PLACE/dev/log
    mount --rbind $PLACE/dev /dev
    $PLACE/mount.fuse.fsrv $PLACE/dir $PLACE/mountpoint -o log_level=debug
    umount $PLACE/mountpoint
";

#[test]
fn a_server_in_the_background_tells_the_systems_log_and_not_the_terminal() {
    let line = Line::new();
    let log = UnixDatagram::bind(line.place.path().join("log")).expect("a log");
    log.set_read_timeout(Some(END_LIMIT)).expect("a limit");
    let terminal = fs::File::create(line.place.path().join("terminal")).expect("a terminal");
    let mut command = Command::new("timeout");
    command.args(["30", "unshare", "-m", "sh", "-c", WITH_A_LOG]).env("PLACE", line.place.path());
    command.stdin(Stdio::null()).stdout(terminal.try_clone().expect("a copy")).stderr(terminal);

    assert!(command.status().expect("timeout runs").success());

    let mut message = [0; 4096];
    let served = std::iter::from_fn(|| {
        let len = log.recv(&mut message).ok()?;
        Some(String::from_utf8_lossy(&message[..len]).into_owned())
    })
    .find(|message| message.contains("serving "))
    .expect("a line that says that it serves");
    // Facility daemon, severity notice.
    assert!(served.starts_with("<29>") && served.contains("fsrv["), "{served}");
    let said = fs::read_to_string(line.place.path().join("terminal")).expect("a terminal");
    assert_eq!(said, "");
}
