//! Front-ends that leave anywhere, and descriptors that are not what they should be.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use fsrv_frontend::abi::ROOT;
use fsrv_frontend::{Frontend, Mount, MountOptions, Wanted};
use rustix::event::{EventfdFlags, eventfd};

use super::device::{Device, SOON, reads_file};
use super::messages::fly;

#[test]
fn a_front_end_may_leave_after_every_byte_of_its_set_up() {
    let mut device = Device::new(&[]);
    let before = device.footprint();
    let mut mounts = 0;
    for bytes in (0..1400).step_by(3) {
        let socket = device.connect();
        socket.die_after(bytes);
        let mounted = Frontend::negotiate(socket, Wanted::default())
            .and_then(|frontend| Mount::on(frontend, &MountOptions::default()));
        mounts += u32::from(mounted.is_ok());
    }
    assert!(mounts > 0, "no set-up was complete");
    device.serves_another();
    device.is_as(&before, SOON);
    device.stop();
}

#[test]
fn a_front_end_may_leave_at_any_moment_under_load() {
    let mut device = Device::new(&[]);
    let before = device.footprint();
    for round in 0..60u32 {
        let options = MountOptions { queues: 2, ..MountOptions::default() };
        let mut mount = device.mount_with(&options);
        fly(&mut mount, u64::from(round % 32));
        let name = format!("made{round}");
        let (made, open) = mount.clients[1].create(ROOT, name.as_bytes(), 2, 0o600).unwrap();
        mount.clients[1].write(made.nodeid, open.fh, 0, &[1; 5000]).unwrap();
        for _ in 0..(round * 7 % 32).min(round % 32) {
            mount.client().wait().unwrap();
        }
        if round % 3 == 0 {
            std::thread::sleep(Duration::from_micros(u64::from(round) * 20));
        }
    }
    device.serves_another();
    device.is_as(&before, SOON);
    device.stop();
}

#[test]
fn a_descriptor_that_is_no_eventfd_harms_nobody() {
    let mut device = Device::new(&[]);
    let before = device.footprint();
    let (read_end, write_end) = std::io::pipe().unwrap();
    let (one, _other) = UnixStream::pair().unwrap();
    let file = tempfile::tempfile().unwrap();
    let descriptors: [(&str, OwnedFd); 6] = [
        ("a pipe to read", read_end.into()),
        ("a pipe to write", write_end.into()),
        ("a socket", one.into()),
        ("a file", file.into()),
        ("a device", std::fs::File::open("/dev/zero").unwrap().into()),
        (
            "an epoll",
            rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap(),
        ),
    ];
    for (name, fd) in &descriptors {
        for kick in [true, false] {
            let mut mount = device.mount();
            // It may be refused, and the connection be ended.
            let set = if kick {
                mount.frontend.set_kick(1, Some(fd.as_fd()))
            } else {
                mount.frontend.set_call(1, Some(fd.as_fd()))
            };
            if set.is_ok() {
                fly_without_asking(&mut mount);
            }
            drop(mount);
            device.serves_another();
            println!("{name}, kick {kick}: {set:?}");
        }
    }
    device.is_as(&before, SOON);
    device.stop();
}

/// Makes the server look at the ring, and tell of what it did.
fn fly_without_asking(mount: &mut Mount) {
    let client = mount.client();
    client.set_limit(Duration::from_millis(200));
    // Nobody may ever hear of the answer.
    let _ = client.getattr(ROOT, None);
}

#[test]
fn a_call_descriptor_that_is_full_stops_neither_its_queue_nor_the_next_front_end() {
    for flags in [EventfdFlags::CLOEXEC, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK] {
        let mut device = Device::new(&["--workers", "1"]);
        let before = device.footprint();
        let mut mount = device.mount();
        let call = eventfd(0, flags).unwrap();
        rustix::io::write(&call, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        mount.frontend.set_call(1, Some(call.as_fd())).unwrap();
        fly_without_asking(&mut mount);
        drop(mount);
        device.serves_another();
        device.is_as(&before, SOON);
        device.stop();
    }
}

#[test]
fn a_full_call_descriptor_does_not_keep_a_queue_from_stopping() {
    let device = Device::new(&["--workers", "1"]);
    let mut mount = device.mount();
    let call = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&call, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    mount.frontend.set_call(1, Some(call.as_fd())).unwrap();
    fly_without_asking(&mut mount);
    mount.frontend.socket().set_limit(SOON).unwrap();
    mount.frontend.stop_queue(1).unwrap();
    drop(mount);
    device.serves_another();
    device.stop();
}

#[test]
fn a_second_front_end_waits_for_the_first() {
    let device = Device::new(&[]);
    let mut first = device.mount();
    let second = device.connect();
    reads_file(&mut first);
    first.unmount().unwrap();
    let mut second = Mount::on_socket(second, &MountOptions::default()).unwrap();
    reads_file(&mut second);
    second.unmount().unwrap();
    device.stop();
}
