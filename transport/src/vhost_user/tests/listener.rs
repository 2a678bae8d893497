//! The socket and the files beside it.

use std::{
    fs::{self, Permissions},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    process,
    time::Duration,
};

use crate::vhost_user::{ListenError, Listener};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn only_the_owner_may_connect_and_the_files_go_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, pid) = (dir.path().join("socket"), dir.path().join("socket.pid"));
    let listener = Listener::bind(&socket, None).unwrap();
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(fs::read_to_string(&pid).unwrap(), format!("{}\n", process::id()));
    let _stream = UnixStream::connect(&socket).unwrap();
    let front_end = listener.accept().unwrap().unwrap();
    let ours = (rustix::process::geteuid().as_raw(), Some(process::id()));
    assert_eq!((front_end.peer.uid, front_end.peer.pid), ours);
    drop(listener);
    assert!(!socket.exists() && !pid.exists());
}

#[test]
fn a_group_may_connect_when_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    // Root may give it away, others to a group of theirs.
    let own = rustix::process::getegid().as_raw();
    let group = if rustix::process::geteuid().is_root() { 12345 } else { own };
    let _listener = Listener::bind(&socket, Some(group)).unwrap();
    assert_eq!((mode(&socket), fs::metadata(&socket).unwrap().gid()), (0o660, group));
}

#[test]
fn a_socket_of_a_dead_server_is_replaced_and_of_a_living_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    drop(UnixListener::bind(&socket).unwrap());
    fs::write(dir.path().join("socket.pid"), "99999999999\nand more\n").unwrap();
    let first = Listener::bind(&socket, None).unwrap();
    let error = Listener::bind(&socket, None).err().unwrap().to_string();
    assert!(error.contains(&format!("process {}", process::id())), "{error}");
    UnixStream::connect(&socket).unwrap();
    drop(first);
    // One that has no lock.
    let other = UnixListener::bind(&socket).unwrap();
    other.set_nonblocking(true).unwrap();
    let error = Listener::bind(&socket, None).err().unwrap();
    assert!(matches!(error, ListenError::InUse { .. }), "{error}");
    assert!(other.accept().is_err(), "it must not take the question for a front-end");
    assert!(!dir.path().join("socket.pid").exists());
    drop(other);
    Listener::bind(&socket, None).unwrap();
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let error = Listener::bind(&file, None).err().unwrap().to_string();
    assert!(error.contains("is no socket"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn a_socket_that_was_replaced_meanwhile_stays() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listener = Listener::bind(&socket, None).unwrap();
    fs::remove_file(&socket).unwrap();
    let _other = UnixListener::bind(&socket).unwrap();
    drop(listener);
    assert!(socket.exists());
}

#[test]
fn paths_that_cannot_be_have_clear_errors() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("s".repeat(108 - dir.path().as_os_str().len() - 1));
    let error = Listener::bind(&long, None).err().unwrap().to_string();
    assert!(error.contains("has 108 bytes, and at most 107"), "{error}");
    let longest = dir.path().join("s".repeat(107 - dir.path().as_os_str().len() - 1));
    drop(Listener::bind(&longest, None).unwrap());
    let error = Listener::bind(&dir.path().join("missing/socket"), None).err().unwrap();
    assert!(error.to_string().contains("missing/socket"), "{error}");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn an_inherited_socket_is_served_and_its_file_stays() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listener = Listener::from_fd(UnixListener::bind(&socket).unwrap().into()).unwrap();
    let _stream = UnixStream::connect(&socket).unwrap();
    assert!(listener.accept().unwrap().is_some());
    drop(listener);
    assert!(socket.exists());
    let stream: OwnedFd = UnixStream::pair().unwrap().0.into();
    let file: OwnedFd = fs::File::open("/dev/null").unwrap().into();
    for wrong in [stream, file] {
        let error = Listener::from_fd(wrong).err().unwrap();
        assert!(matches!(error, ListenError::NotListening { .. }), "{error}");
    }
}

#[test]
fn waiting_is_ended_from_another_thread() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::bind(&dir.path().join("socket"), None).unwrap();
    let waker = listener.waker();
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        waker.wake();
    });
    assert!(listener.accept().unwrap().is_none());
    assert!(listener.accept().unwrap().is_none());
    other.join().unwrap();
}
