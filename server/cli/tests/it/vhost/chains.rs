//! Chains and rings that no driver makes.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fsrv_frontend::abi::ROOT;
use fsrv_frontend::queue::Descriptor;
use fsrv_frontend::vhost_user::{Request, VringAddr, VringState};
use fsrv_frontend::{Error, Mount, MountOptions, Region, hostile};
use rustix::event::{EventfdFlags, eventfd};
use zerocopy::IntoBytes;

use super::device::{Device, SOON, until};

#[test]
fn a_bad_chain_is_refused_and_its_queue_can_be_stopped() {
    let mut device = Device::new(&[]);
    let before = device.footprint();
    for chain in hostile::bad_chains() {
        let mut mount = device.mount();
        chain.put(mount.client()).unwrap();
        // Some are answered, some stop the queue, and which does not matter here.
        let _ = mount.client().queue().wait(Duration::from_millis(50));
        let stopped = mount.frontend.stop_queue(1);
        assert!(stopped.is_ok(), "{}: {stopped:?}; {}", chain.name, device.log());
        drop(mount);
        device.serves_another();
    }
    device.is_as(&before, SOON);
    let log = device.log();
    assert!(log.contains("a message is refused") && log.contains("a virtqueue stops"), "{log}");
    device.stop();
}

#[test]
fn another_queue_goes_on_beside_one_that_broke() {
    let device = Device::new(&["--workers", "1"]);
    let options = MountOptions { queues: 2, ..MountOptions::default() };
    for chain in hostile::bad_chains() {
        let mut mount = device.mount_with(&options);
        chain.put(&mut mount.clients[0]).unwrap();
        mount.clients[1].set_limit(SOON);
        let answer = mount.clients[1].getattr(ROOT, None);
        assert!(answer.is_ok(), "{}: {answer:?}; {}", chain.name, device.log());
    }
    device.stop();
}

#[test]
fn a_driver_that_never_stops_sending_bad_chains_keeps_nobody_waiting() {
    let device = Device::new(&["--workers", "1"]);
    let options = MountOptions { queues: 2, ring_size: 32768, ..MountOptions::default() };
    let mut mount = device.mount_with(&options);
    let (region, ring) = {
        let client = &mut mount.clients[0];
        (client.region().clone(), client.ring().clone())
    };
    // Every entry of the available ring is 0, and that descriptor is outside of memory.
    ring.set_descriptor(0, Descriptor { addr: 1 << 50, len: 1, flags: 0, next: 0 });
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = ring.used_index();
            for index in 0..32768u16 {
                ring.set_available(index, 0);
            }
            let mut index = start;
            while !is_over.load(Ordering::Relaxed) {
                // As many as there may be, again and again, as fast as they are taken.
                if index.wrapping_sub(ring.used_index()) < 30_000 {
                    index = index.wrapping_add(64);
                }
                region.store(ring.available + 2, index, Ordering::Release);
            }
        });
        mount.clients[0].queue().kick().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        mount.clients[1].set_limit(Duration::from_secs(5));
        let other = mount.clients[1].getattr(ROOT, None);
        let start = Instant::now();
        mount.frontend.socket().set_limit(Duration::from_secs(5)).unwrap();
        let stopped = mount.frontend.stop_queue(1);
        is_over.store(true, Ordering::Relaxed);
        assert!(other.is_ok(), "{other:?}");
        assert!(stopped.is_ok(), "{stopped:?} after {:?}", start.elapsed());
    });
    let log = device.log();
    assert!(log.lines().count() < 30, "{log}");
}

#[test]
fn a_ring_that_refills_itself_keeps_nobody_waiting() {
    let device = Device::new(&["--workers", "1"]);
    let options = MountOptions { queues: 2, ..MountOptions::default() };
    let mut mount = device.mount_with(&options);
    mount.frontend.stop_queue(1).unwrap();
    let ring = mount.client().ring().clone();
    ring.set_descriptor(0, Descriptor { addr: 1 << 50, len: 1, flags: 0, next: 0 });
    (0..options.ring_size).for_each(|index| ring.set_available(index, 0));
    ring.set_available_index(5);
    // The used ring is where the available ring is: each answer makes another message available.
    let [descriptors, both] = [ring.descriptors, ring.available].map(Region::user_address);
    let body = VringAddr { index: 1, flags: 0, descriptors, used: both, available: both, log: 0 };
    let socket = mount.frontend.socket();
    socket.send(Request::SetVringAddr, body.as_bytes(), &[]).unwrap();
    let base = VringState { index: 1, num: 0 };
    socket.send(Request::SetVringBase, base.as_bytes(), &[]).unwrap();
    let kick = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    mount.frontend.set_kick(1, Some(kick.as_fd())).unwrap();

    // It goes round.
    let index = || ring.region().load(ring.available + 2, Ordering::Relaxed);
    until(SOON, || if index() > 100 { Ok(()) } else { Err(device.log()) });
    mount.clients[1].set_limit(Duration::from_secs(5));
    let other = mount.clients[1].getattr(ROOT, None);

    assert!(other.is_ok(), "{other:?}; {}", device.log());
    mount.frontend.stop_queue(1).unwrap();
    drop(mount);
    device.serves_another();
}

#[test]
fn a_ring_outside_of_memory_is_refused() {
    let mut device = Device::new(&[]);
    let before = device.footprint();
    let region = device.mount().frontend.regions()[0].clone();
    let (region, end) = (region.guest(), region.guest() + region.size());
    for (name, address) in [
        ("nowhere", 1 << 50),
        ("at the end of all addresses", u64::MAX - Region::user_address(0)),
        ("odd", region + 1),
        ("at the end of its region", end - 16),
        ("before its region", region - 4096),
    ] {
        for part in 0..3 {
            let mount = device.mount();
            mount.frontend.stop_queue(0).unwrap();
            let mut parts = [region, region, region];
            parts[part] = address;
            let [descriptors, used, available] =
                parts.map(|part| Region::user_address(0).wrapping_add(part));
            let body =
                VringAddr { index: 0, flags: 0, descriptors, used, available, log: u64::MAX };
            // It may be found out when the ring starts.
            let socket = mount.frontend.socket();
            let moved = socket.send(Request::SetVringAddr, body.as_bytes(), &[]);
            let started = moved.and_then(|()| {
                let kick = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
                mount.frontend.set_kick(0, Some(kick.as_fd()))
            });
            if part == 0 || address % 4 != 0 || address > 1 << 40 {
                assert!(
                    matches!(started, Err(Error::Refused { .. } | Error::Gone)),
                    "{name}, part {part}: {started:?}"
                );
            }
        }
    }
    device.serves_another();
    device.is_as(&before, SOON);
    device.stop();
}

#[test]
fn a_ring_that_is_started_broken_again_and_again_does_not_fill_the_log() {
    let device = Device::new(&[]);
    let mut mount = device.mount();
    let Mount { frontend, clients, .. } = &mut mount;
    for _ in 0..300 {
        let queue = clients[0].queue();
        queue.push(u16::MAX);
        queue.publish().unwrap();
        queue.kick().unwrap();
        frontend.stop_queue(1).unwrap();
        frontend.start_queue(1, queue).unwrap();
    }
    let log = device.log();
    assert!(log.contains("a virtqueue stops") && log.lines().count() < 100, "{log}");
}

#[test]
fn front_ends_that_come_and_go_do_not_fill_the_log() {
    let device = Device::new(&[]);
    for _ in 0..1000 {
        // It may have been hung up on before.
        let _ = device.connect().send_raw(&[0xff; 64], &[]);
    }
    device.serves_another();
    let log = device.log();
    assert!(log.lines().count() < 200, "{} lines: {log}", log.lines().count());
    until(SOON, || {
        device.serves_another();
        if device.log().contains("left out") { Ok(()) } else { Err(device.log()) }
    });
}
