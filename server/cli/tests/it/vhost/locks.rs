//! Locks: those that wait, and those of two servers.

use std::time::{Duration, Instant};

use fsrv_frontend::abi::{LkIn, ROOT};
use fsrv_frontend::{Client, Mount, MountOptions, lock};

use super::device::{CONTENT, Device, place};

const EINTR: i32 = libc::EINTR;
const ENOLCK: i32 = libc::ENOLCK;

fn whole(fh: u64, owner: u64, kind: i32) -> LkIn {
    lock(fh, owner, 0..=i64::MAX as u64, kind as u32)
}

/// Node and handle of the file.
fn open(client: &mut Client) -> (u64, u64) {
    let file = client.lookup(ROOT, b"file").unwrap();
    (file.nodeid, client.open(file.nodeid, libc::O_RDWR as u32).unwrap().fh)
}

#[test]
fn a_lock_that_waits_is_interrupted_when_its_ring_stops() {
    let device = Device::new(&[]);
    let mut mount = device.mount();
    let (node, fh) = open(mount.client());
    mount.client().setlk(node, whole(fh, 1, libc::F_WRLCK)).unwrap();
    for owner in 2..10 {
        mount.client().submit_setlkw(node, whole(fh, owner, libc::F_WRLCK), owner).unwrap();
    }
    // They wait by now.
    mount.client().getattr(node, None).unwrap();
    let start = Instant::now();

    mount.frontend.stop_queue(1).unwrap();

    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let mut answers = 0;
    while let Some(done) = mount.client().poll().unwrap() {
        assert_eq!(done.errno, EINTR);
        answers += 1;
    }
    assert_eq!((answers, mount.client().in_flight()), (8, 0));
    drop(mount);
    device.serves_another();
    device.stop();
}

#[test]
fn more_than_a_quarter_of_a_ring_does_not_wait_for_locks() {
    let device = Device::new(&[]);
    let options = MountOptions { ring_size: 64, depth: 40, ..MountOptions::default() };
    let options = MountOptions { form: fsrv_frontend::Form::Indirect, ..options };
    let mut mount = device.mount_with(&options);
    let (node, fh) = open(mount.client());
    mount.client().setlk(node, whole(fh, 1, libc::F_WRLCK)).unwrap();
    for owner in 2..22 {
        mount.client().submit_setlkw(node, whole(fh, owner, libc::F_RDLCK), owner).unwrap();
    }
    mount.client().getattr(node, None).unwrap();
    for _ in 0..4 {
        assert_eq!(mount.client().wait().unwrap().errno, ENOLCK);
    }
    assert_eq!(mount.client().in_flight(), 16);
    mount.client().setlk(node, whole(fh, 1, libc::F_UNLCK)).unwrap();
    for _ in 0..16 {
        assert_eq!(mount.client().wait().unwrap().errno, 0);
    }
    mount.unmount().unwrap();
    device.stop();
}

#[test]
fn owners_of_locks_leave_descriptors_to_others() {
    for handles in ["never", "prefer"] {
        let device = Device::new(&["--rlimit-nofile", "300", "--inode-file-handles", handles]);
        let mut mount = device.mount();
        let (node, fh) = open(mount.client());
        let refused = (0..320).filter(|&owner| {
            let byte = lock(fh, owner, owner..=owner, libc::F_WRLCK as u32);
            match mount.client().setlk(node, byte) {
                Ok(()) => false,
                Err(error) => {
                    assert_eq!(error.errno(), Some(ENOLCK), "owner {owner} with {handles}");
                    true
                }
            }
        });
        let refused = refused.count();
        assert!(0 < refused && refused < 280, "{refused} refused with {handles}");

        let (node, fh) = open(mount.client());
        assert_eq!(mount.client().read(node, fh, 0, 4).unwrap(), CONTENT[..4]);
        let dir = mount.client().opendir(ROOT).unwrap();
        mount.client().releasedir(ROOT, dir.fh).unwrap();
        mount.unmount().unwrap();
        device.stop();
    }
}

#[test]
fn a_front_end_that_leaves_while_it_waits_for_a_lock_leaves_no_lock() {
    let device = Device::new(&[]);
    let mut mount = device.mount();
    let (node, fh) = open(mount.client());
    mount.client().setlk(node, whole(fh, 1, libc::F_WRLCK)).unwrap();
    mount.client().submit_setlkw(node, whole(fh, 2, libc::F_WRLCK), 2).unwrap();
    let start = Instant::now();
    drop(mount);

    let mut mount = device.mount();
    let (node, fh) = open(mount.client());
    mount.client().setlk(node, whole(fh, 3, libc::F_WRLCK)).unwrap();

    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    mount.unmount().unwrap();
    device.stop();
}

#[test]
fn two_servers_of_one_directory_share_locks_and_data() {
    let place = place();
    let shared = place.path().join("shared");
    let first = Device::at(place, &["--cache", "never"]);
    let second_place = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&shared, second_place.path().join("shared")).unwrap();
    let second = Device::at(second_place, &["--cache", "never"]);
    std::fs::write(first.shared("file"), 0u64.to_le_bytes()).unwrap();
    let mounts = [first.mount(), second.mount()];
    const ROUNDS: u64 = 100;
    std::thread::scope(|scope| {
        for mount in mounts {
            scope.spawn(move || count(mount, ROUNDS));
        }
    });
    let counted = std::fs::read(first.shared("file")).unwrap();
    assert_eq!(counted, (2 * ROUNDS).to_le_bytes());
    first.stop();
    second.stop();
}

fn count(mut mount: Mount, rounds: u64) {
    let client = mount.client();
    let (node, fh) = open(client);
    for _ in 0..rounds {
        client.setlkw(node, whole(fh, 1, libc::F_WRLCK)).unwrap();
        let bytes = client.read(node, fh, 0, 8).unwrap();
        let number = u64::from_le_bytes(bytes.try_into().unwrap());
        client.write(node, fh, 0, &(number + 1).to_le_bytes()).unwrap();
        client.setlk(node, whole(fh, 1, libc::F_UNLCK)).unwrap();
    }
    mount.unmount().unwrap();
}

#[test]
fn a_lock_of_a_host_process_is_waited_for() {
    let device = Device::new(&[]);
    let mut mount = device.mount();
    let (node, fh) = open(mount.client());
    let held = std::fs::File::options().write(true).open(device.shared("file")).unwrap();
    rustix::fs::fcntl_lock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    mount.client().submit_setlkw(node, whole(fh, 2, libc::F_WRLCK), 2).unwrap();
    mount.client().getattr(node, None).unwrap();
    assert_eq!(mount.client().in_flight(), 1);
    drop(held);
    assert_eq!(mount.client().wait().unwrap().errno, 0);
    mount.unmount().unwrap();
    device.stop();
}
