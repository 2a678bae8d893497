//! A filesystem below the served directory that hangs takes a part of a ring.

use std::fs;
use std::time::{Duration, Instant};

use fsrv_frontend::abi::{Opcode, ROOT, ReadIn};
use fsrv_frontend::{Call, Entries, Form, Mount, MountOptions, Payload};
use rustix::process::Signal;
use zerocopy::IntoBytes;

use super::device::{Device, place};
use crate::hung::Slow;

const CONTENT: &[u8] = b"what is below";

/// A device with a filesystem that can be stopped.
fn device(args: &[&str]) -> (Slow, Device) {
    let place = place();
    let source = place.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("below"), CONTENT).unwrap();
    let slow = Slow::at(&source, &place.path().join("shared/hung"));
    (slow, Device::at(place, args))
}

fn mount(device: &Device) -> Mount {
    let options =
        MountOptions { ring_size: 64, depth: 40, form: Form::Indirect, ..MountOptions::default() };
    device.mount_with(&options)
}

const CORNERS: [[&str; 4]; 2] = [
    ["--io-engine", "uring", "--inode-file-handles", "prefer"],
    ["--io-engine", "threads", "--inode-file-handles", "never"],
];

#[test]
fn a_filesystem_that_hangs_leaves_a_ring_to_others() {
    for corner in CORNERS {
        let (slow, device) = device(&corner);
        let mut mount = mount(&device);
        let client = mount.client();
        let hung = client.lookup(ROOT, b"hung").unwrap().nodeid;
        let below = client.lookup(hung, b"below").unwrap().nodeid;
        let fh = client.open(below, 0).unwrap().fh;
        slow.stop();
        let read = ReadIn { fh, offset: 0, size: 4096, ..ReadIn::default() };
        let reads = Call {
            op: Opcode::Read,
            node: below,
            args: &[read.as_bytes()],
            payload: Payload::Receive(4096),
            reply: 0,
        };
        for tag in 0..2 {
            client.submit(&reads, tag).unwrap();
        }
        let look = Call {
            op: Opcode::Lookup,
            node: hung,
            args: &[b"nothing\0"],
            reply: 128,
            ..Call::default()
        };
        for tag in 2..30 {
            client.submit(&look, tag).unwrap();
        }
        client.flush().unwrap();

        // A quarter of the ring and some that are parked, half of which is for others that hang.
        for _ in 0..18 {
            assert_eq!(client.wait().unwrap().errno, libc::EIO);
        }
        assert_eq!(client.in_flight(), 12);
        let file = client.lookup(ROOT, b"file").unwrap().nodeid;
        let open = client.open(file, 2).unwrap().fh;
        client.fsync(file, open).unwrap();
        client.getattr(ROOT, None).unwrap();
        client.lookup(ROOT, b"hung").unwrap();
        assert_eq!(client.in_flight(), 12);

        slow.go_on();
        let mut answers: Vec<_> = (0..12)
            .map(|_| {
                let done = client.wait().unwrap();
                (done.tag, done.errno, done.len)
            })
            .collect();
        answers.sort_unstable();
        let read = CONTENT.len() as u32;
        assert_eq!(answers[..2], [(0, 0, read), (1, 0, read)]);
        assert!(answers[2..].iter().all(|&(_, errno, _)| errno == libc::ENOENT), "{answers:?}");
        let log = device.log();
        assert_eq!(log.matches("too many requests wait").count(), 1, "{log}");
        mount.unmount().unwrap();
        device.stop();
    }
}

#[test]
fn a_device_ends_while_a_filesystem_hangs() {
    for corner in CORNERS {
        let (slow, mut device) = device(&corner);
        let mut mount = mount(&device);
        let client = mount.client();
        let hung = client.lookup(ROOT, b"hung").unwrap().nodeid;
        let below = client.lookup(hung, b"below").unwrap().nodeid;
        client.open(below, 2).unwrap();
        slow.stop();
        let look = Call {
            op: Opcode::Lookup,
            node: hung,
            args: &[b"nothing\0"],
            reply: 128,
            ..Call::default()
        };
        for tag in 0..4 {
            client.submit(&look, tag).unwrap();
        }
        client.flush().unwrap();
        client.getattr(ROOT, None).unwrap();

        let start = Instant::now();
        device.signal(Signal::TERM);
        let status = device.ended(Duration::from_secs(5));
        assert!(status.success(), "{status}: {}", device.log());
        println!("{corner:?}: {:?}", start.elapsed());
        drop((mount, slow));
    }
}

#[test]
fn who_lists_a_directory_does_not_ask_what_is_mounted_in_it() {
    let (slow, device) = device(&[]);
    let mut mount = mount(&device);
    let client = mount.client();
    slow.stop();
    let dir = client.opendir(ROOT).unwrap().fh;
    let bytes = client.readdirplus(ROOT, dir, 0, 4096).unwrap();
    let entries: Vec<_> = Entries::new(&bytes).map(Result::unwrap).collect();
    let node = |name: &[u8]| entries.iter().find(|entry| entry.name == name).unwrap().entry.nodeid;
    assert_eq!(node(b"hung"), 0);
    assert_ne!(node(b"file"), 0);
    client.releasedir(ROOT, dir).unwrap();
    slow.go_on();
    mount.unmount().unwrap();
    device.stop();
}
