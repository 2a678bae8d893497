//! How a server for front-ends starts and ends.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use fsrv_frontend::{Mount, MountOptions};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;

use super::device::{Device, SOON, fsrv, place, reads_file, until};
use super::messages::{fly, never_ends};
use super::stuck::Stuck;

/// The command line was wrong.
const USAGE: i32 = 2;

/// The command line was right, and what it asked for did not work.
const FAILURE: i32 = 1;

#[test]
fn what_cannot_be_served_is_one_clear_line_and_leaves_nothing() {
    let place = place();
    let at = |name: &str| place.path().join(name).display().to_string();
    let (socket, shared) = (at("socket"), at("shared"));
    let long = at(&"x".repeat(120));
    fs::write(place.path().join("occupied"), "").unwrap();
    let tag = "t".repeat(37);
    for (code, socket, dir, more, words) in [
        (FAILURE, socket.as_str(), at("missing"), vec![], "missing"),
        (FAILURE, &socket, at("occupied"), vec![], "occupied"),
        (FAILURE, &long, shared.clone(), vec![], "107"),
        (FAILURE, &at("none/socket"), shared.clone(), vec![], "none/socket"),
        (FAILURE, &at("occupied"), shared.clone(), vec![], "no socket"),
        (
            FAILURE,
            &socket,
            shared.clone(),
            vec!["--socket-group", "no-such-group"],
            "no-such-group",
        ),
        (USAGE, &socket, shared.clone(), vec!["--tag", &tag], "36"),
        (USAGE, &socket, shared.clone(), vec!["--tag", ""], "--tag"),
        (USAGE, &socket, shared.clone(), vec!["--queues", "0"], "--queues"),
        (USAGE, &socket, shared.clone(), vec!["--queues", "65"], "--queues"),
        (USAGE, &socket, shared.clone(), vec!["--poll-us", "1000001"], "--poll-us"),
    ] {
        let before = names(place.path());
        let output = Command::new("timeout")
            .args(["--kill-after=2", "10"])
            .arg(fsrv())
            .args(["serve", "--vhost-user", socket, "--dir", &dir])
            .args(&more)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{more:?}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "not one line: {said}");
        assert!(said.contains(words), "no {words:?} in {said}");
        assert_eq!(names(place.path()), before, "something is left after {said}");
    }
}

fn names(dir: &std::path::Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn an_inherited_descriptor_that_is_no_listening_socket_is_refused() {
    let place = place();
    for number in ["0", "77"] {
        let output = Command::new(fsrv())
            .args(["serve", "--fd", number, "--dir"])
            .arg(place.path().join("shared"))
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(FAILURE), "{said}");
        assert!(said.contains(&format!("descriptor {number} is no listening")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_server_with_once_ends_with_its_front_end() {
    for unmounts in [true, false] {
        let mut device = Device::new(&["--once"]);
        let mut mount = device.mount();
        reads_file(&mut mount);
        if unmounts {
            mount.unmount().unwrap();
        } else {
            fly(&mut mount, 32);
            drop(mount);
        }
        assert!(device.ended(SOON).success(), "{}", device.log());
        assert!(!device.socket().exists(), "the socket is left");
        assert!(!pid_file(&device).exists(), "the lock is left");
    }
}

#[test]
fn an_inherited_socket_is_served_for_one_front_end_and_left() {
    let place = place();
    let path = place.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    fcntl_setfd(&listener, FdFlags::empty()).unwrap();
    let number = listener.as_raw_fd().to_string();
    let mut device = Device::start(place, |command| {
        command.args(["--fd", &number]);
    });
    device.wait_for_log("serving ");
    drop(listener);

    device.serves_another();

    assert!(device.ended(SOON).success(), "{}", device.log());
    assert!(device.socket().exists(), "another's socket is gone");
}

#[test]
fn a_signal_ends_a_server_with_and_without_a_front_end() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        for connected in [false, true] {
            let mut device = Device::new(&[]);
            let mount = connected.then(|| {
                let mut mount = device.mount();
                fly(&mut mount, 32);
                mount
            });
            let start = Instant::now();
            device.signal(signal);
            assert!(device.ended(SOON).success(), "{}", device.log());
            assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
            assert!(!device.socket().exists() && !pid_file(&device).exists());
            drop(mount);
        }
    }
}

#[test]
fn a_signal_ends_a_server_that_waits_for_the_rest_of_a_message() {
    for bytes in [&[1, 0, 0, 0][..], &[2, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0]] {
        let mut device = Device::new(&[]);
        let socket = device.connect();
        socket.send_raw(bytes, &[]).unwrap();
        device.wait_for_log("connected");
        let start = Instant::now();
        device.signal(Signal::TERM);
        assert!(device.ended(SOON).success(), "{}", device.log());
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        assert!(!device.socket().exists() && !pid_file(&device).exists());
    }
}

#[test]
fn a_signal_ends_a_server_whose_request_never_ends() {
    let mut device = Device::new(&[]);
    let mut stuck = Stuck::at(&device.shared("stuck"));
    let mut mount = device.mount();
    never_ends(mount.client(), &mut stuck);
    let start = Instant::now();

    device.signal(Signal::TERM);

    assert!(device.ended(SOON).success(), "{}", device.log());
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert!(!device.socket().exists() && !pid_file(&device).exists(), "{}", device.log());
}

#[test]
fn a_socket_is_for_its_owner_or_group_from_its_first_moment() {
    for (more, mode, gid) in
        [(&[][..], 0o600, None), (&["--socket-group", "65534"], 0o660, Some(65534))]
    {
        let place = place();
        let socket = place.path().join("socket");
        let watched = socket.clone();
        let watcher = thread::spawn(move || {
            let mut modes = Vec::new();
            let deadline = Instant::now() + Duration::from_secs(2);
            while Instant::now() < deadline {
                if let Ok(metadata) = fs::symlink_metadata(&watched) {
                    modes.push(metadata.permissions().mode() & 0o7777);
                    modes.dedup();
                    if modes.last() == Some(&mode) {
                        break;
                    }
                }
            }
            modes
        });
        let device = Device::at(place, more);
        let modes = watcher.join().unwrap();
        assert_eq!(modes.last(), Some(&mode), "the watcher saw no socket");
        assert!(modes.iter().all(|seen| [0o600, mode].contains(seen)), "{modes:?}");
        let metadata = fs::symlink_metadata(&socket).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode);
        assert!(gid.is_none_or(|gid| metadata.gid() == gid));
        device.stop();
    }
}

#[test]
fn a_socket_of_a_dead_server_is_replaced_and_of_a_living_one_refused() {
    let mut device = Device::new(&[]);
    let refused = Command::new(fsrv())
        .args(["serve", "--vhost-user"])
        .arg(device.socket())
        .arg("--dir")
        .arg(device.shared(""))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(FAILURE), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&format!("process {}", device.pid())), "{said}");
    device.serves_another();

    device.signal(Signal::KILL);
    device.ended(SOON);
    assert!(device.socket().exists(), "a killed server removes nothing");
    let socket = device.socket();
    let second = Device::start(place(), |command| {
        command.arg("--vhost-user").arg(&socket);
    });
    until(SOON, || if second.log().contains("serving ") { Ok(()) } else { Err(second.log()) });
    let mut mount = Mount::connect(&socket, &MountOptions::default()).unwrap();
    reads_file(&mut mount);
    mount.unmount().unwrap();
}

#[test]
fn the_log_names_the_peer() {
    let mut device = Device::new(&[]);
    device.serves_another();
    let uid = rustix::process::geteuid().as_raw();
    device.wait_for_log(&format!("uid {uid}"));
    device.stop();
}

fn pid_file(device: &Device) -> std::path::PathBuf {
    device.socket().with_extension("pid")
}
