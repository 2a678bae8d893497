//! Queues of every number and size, that stop, go on and are reset.

use std::time::Duration;

use fsrv_frontend::abi::{ROOT, init};
use fsrv_frontend::vhost_user::{feature, protocol_feature};
use fsrv_frontend::{Cut, Form, Framing, Mount, MountOptions, Wanted};

use super::device::{Device, SOON, reads_file};
use super::messages::{fly, never_ends};
use super::stuck::Stuck;

#[test]
fn one_two_and_eight_queues_are_served() {
    for (given, queues) in [("1", 1), ("2", 2), ("8", 8), ("1", 8)] {
        let device = Device::new(&["--queues", given]);
        let options = MountOptions { queues, ..MountOptions::default() };
        let mut mount = device.mount_with(&options);
        assert_eq!(mount.clients.len(), queues);
        let config = mount.frontend.fs_config().unwrap();
        assert_eq!(config.request_queues.to_string(), given);
        assert_eq!(config.tag, b"fsrv");
        let file = mount.client().lookup(ROOT, b"file").unwrap();
        for client in &mut mount.clients {
            let open = client.open(file.nodeid, 0).unwrap();
            assert_eq!(client.read(file.nodeid, open.fh, 0, 10).unwrap().len(), 10);
            client.release(file.nodeid, open.fh).unwrap();
        }
        mount.unmount().unwrap();
        device.stop();
    }
}

#[test]
fn rings_of_every_size_are_served() {
    let device = Device::new(&[]);
    for power in 1..=10 {
        let ring_size = 1 << power;
        for (form, event_idx) in
            [(Form::Indirect, true), (Form::Chained, true), (Form::Indirect, false)]
        {
            // Without tables, a message is at most two descriptors there.
            let cut = if power < 3 { Cut::Joined } else { Cut::Parts };
            let mut wanted = Wanted::default();
            if !event_idx {
                wanted.features &= !feature::EVENT_IDX;
            }
            let depth = if form == Form::Chained { ring_size / 4 } else { ring_size }.clamp(1, 32);
            let framing = Framing { cut, ..Framing::default() };
            let options =
                MountOptions { ring_size, depth, form, framing, wanted, ..MountOptions::default() };
            let mut mount = device.mount_with(&options);
            reads_file(&mut mount);
            for _ in 0..3 {
                fly(&mut mount, depth.into());
                while mount.client().in_flight() > 0 {
                    assert_eq!(mount.client().wait().unwrap().errno, 0);
                }
            }
            mount.unmount().unwrap();
        }
    }
    device.stop();
}

#[test]
fn a_front_end_without_any_protocol_feature_is_served() {
    let device = Device::new(&[]);
    for wanted in [
        Wanted { protocol: 0, ..Wanted::default() },
        Wanted { features: feature::VERSION_1, protocol: 0 },
        Wanted { protocol: protocol_feature::MQ, ..Wanted::default() },
    ] {
        let options = MountOptions { wanted, table_len: 8, ..MountOptions::default() };
        let mut mount = device.mount_with(&options);
        reads_file(&mut mount);
        mount.unmount().unwrap();
    }
    device.stop();
}

#[test]
fn a_second_init_forgets_the_first_client() {
    let mut device = Device::new(&[]);
    let before = device.footprint();
    let mut mount = device.mount();
    for _ in 0..50 {
        let file = mount.client().lookup(ROOT, b"file").unwrap();
        let open = mount.client().open(file.nodeid, 0).unwrap();
        mount.client().init(init::USUAL, 38).unwrap();
        let read = mount.client().read(file.nodeid, open.fh, 0, 10);
        assert!(read.unwrap_err().errno().is_some(), "a handle of the client before");
        reads_file(&mut mount);
    }
    mount.unmount().unwrap();
    device.is_as(&before, SOON);
    device.stop();
}

#[test]
fn a_reset_device_starts_again() {
    let mut device = Device::new(&[]);
    let before = device.footprint();
    let mut mount = device.mount();
    for _ in 0..10 {
        fly(&mut mount, 2);
        mount.frontend.reset_device().unwrap();
        let Mount { frontend, clients, .. } = &mut mount;
        let client = &mut clients[0];
        // Those that were taken are answered, and the others forgotten with their ring.
        while client.poll().unwrap().is_some() {}
        client.queue().reset();
        client.queue().bell_mut().renew().unwrap();
        frontend.start_queue(1, client.queue()).unwrap();
        client.init(init::USUAL, 38).unwrap();
        let file = client.lookup(ROOT, b"file").unwrap();
        assert!(client.open(file.nodeid, 0).is_ok());
    }
    drop(mount);
    device.serves_another();
    device.is_as(&before, SOON);
    device.stop();
}

#[test]
fn forgets_are_taken_while_a_request_queue_waits_for_a_disk() {
    let device = Device::new(&["--workers", "1"]);
    let mut stuck = Stuck::at(&device.shared("stuck"));
    let mut mount = device.mount();
    let file = mount.client().lookup(ROOT, b"file").unwrap();
    never_ends(mount.client(), &mut stuck);
    mount.client().forget(file.nodeid, 1).unwrap();
    mount.drain_forgets().unwrap();
    // The same queue goes on as well.
    mount.client().set_limit(Duration::from_secs(5));
    reads_file(&mut mount);
    stuck.go_on();
    mount.client().wait().unwrap();
    mount.unmount().unwrap();
    drop(stuck);
    device.stop();
}
