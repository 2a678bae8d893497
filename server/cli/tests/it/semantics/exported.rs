//! File handles through the mount, as an NFS server on it uses them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::sys::{Handle, handle_of, open_handle};
use crate::served::{Served, URING_PREFER};

#[test]
fn a_file_is_found_by_its_handle_after_everything_was_forgotten() {
    let served = Served::new(&URING_PREFER);
    let path = served.mounted().join("dir/file");
    fs::create_dir(served.mounted().join("dir")).unwrap();
    fs::write(&path, "content").unwrap();
    let ino = fs::metadata(&path).unwrap().ino();
    let handle = handle_of(&path).expect("a handle");
    forget();

    let mut file = open(&served, &handle, libc::O_RDONLY).expect("a file");
    let mut content = String::new();
    file.read_to_string(&mut content).unwrap();

    assert_eq!(content, "content");
    assert_eq!(file.metadata().unwrap().ino(), ino);
    drop(file);
    served.stop();
}

#[test]
fn a_directory_is_found_by_its_handle_and_leads_to_all_above_and_below() {
    let served = Served::new(&URING_PREFER);
    fs::create_dir_all(served.mounted().join("a/b/c")).unwrap();
    fs::write(served.mounted().join("a/b/file"), "content").unwrap();
    let handle = handle_of(&served.mounted().join("a/b")).expect("a handle");
    forget();

    let dir = open(&served, &handle, libc::O_RDONLY | libc::O_DIRECTORY).expect("a directory");
    let seen = Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&dir).to_string());
    let names: Vec<_> = fs::read_dir(&seen).unwrap().map(|entry| entry.unwrap().path()).collect();

    assert_eq!(names.len(), 2);
    assert_eq!(fs::read(seen.join("file")).unwrap(), b"content");
    assert_eq!(ino(&seen.join("..")), ino(&served.mounted().join("a")));
    assert_eq!(ino(&seen.join("../..")), ino(served.mounted()));
    drop(dir);
    served.stop();
}

#[test]
fn the_handle_of_the_root_leads_to_the_root() {
    let served = Served::new(&URING_PREFER);
    let handle = handle_of(served.mounted()).expect("a handle");
    forget();
    let dir = open(&served, &handle, libc::O_RDONLY | libc::O_DIRECTORY).expect("a directory");
    assert_eq!(dir.metadata().unwrap().ino(), ino(served.mounted()));
    drop(dir);
    served.stop();
}

#[test]
fn the_handle_of_a_removed_file_is_stale() {
    let served = Served::new(&URING_PREFER);
    let path = served.mounted().join("file");
    fs::write(&path, "content").unwrap();
    let handle = handle_of(&path).expect("a handle");
    fs::remove_file(&path).unwrap();
    becomes_stale(&served, &handle);
    served.stop();
}

#[test]
fn the_handle_of_a_file_removed_on_the_host_is_stale_though_its_number_is_used_again() {
    let served = Served::new(&URING_PREFER);
    fs::write(served.mounted().join("file"), "old").unwrap();
    let handle = handle_of(&served.mounted().join("file")).expect("a handle");
    forget();
    fs::remove_file(served.backing().join("file")).unwrap();
    // ext4 gives a new file the number that was freed last.
    fs::write(served.backing().join("other"), "new").unwrap();
    becomes_stale(&served, &handle);
    served.stop();
}

#[test]
fn a_handle_lives_through_a_rename() {
    let served = Served::new(&URING_PREFER);
    fs::write(served.mounted().join("old"), "content").unwrap();
    let handle = handle_of(&served.mounted().join("old")).expect("a handle");
    fs::rename(served.mounted().join("old"), served.mounted().join("new")).unwrap();
    forget();
    let file = open(&served, &handle, libc::O_RDONLY).expect("a file");
    assert_eq!(io::read_to_string(file).unwrap(), "content");
    served.stop();
}

#[test]
fn without_handles_on_the_host_a_forgotten_file_is_stale_and_nothing_breaks() {
    let served = Served::new(&["--inode-file-handles", "never"]);
    fs::write(served.mounted().join("file"), "content").unwrap();
    let handle =
        handle_of(&served.mounted().join("file")).expect("a handle of the client's kernel");
    becomes_stale(&served, &handle);
    assert_eq!(fs::read(served.mounted().join("file")).unwrap(), b"content");
    served.stop();
}

/// Makes the kernel drop the inodes and names that nobody uses.
fn forget() {
    fs::write("/proc/sys/vm/drop_caches", "2").expect("these tests run as root");
}

fn open(served: &Served, handle: &Handle, flags: i32) -> io::Result<File> {
    open_handle(&File::open(served.mounted())?, handle, flags)
}

/// The file is there until the server has heard that nobody uses it, and never is another one.
fn becomes_stale(served: &Served, handle: &Handle) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        forget();
        match open(served, handle, libc::O_RDONLY) {
            Ok(file) => assert_ne!(io::read_to_string(file).unwrap(), "new"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
                return;
            }
        }
        assert!(Instant::now() < deadline, "it never becomes stale");
        sleep(Duration::from_millis(10));
    }
}

fn ino(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}
