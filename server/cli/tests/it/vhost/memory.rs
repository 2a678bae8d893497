//! Guest memory that is wrong, or goes away.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use fsrv_frontend::abi::ROOT;
use fsrv_frontend::vhost_user::{Log, MemoryRegion, Request, SingleRegion, feature};
use fsrv_frontend::{Error, Frontend, MountOptions, Wanted};
use rustix::fs::{MemfdFlags, memfd_create};
use zerocopy::IntoBytes;

use super::device::{Device, SOON, until};
use super::messages::fly;

const GIB: u64 = 1 << 30;

#[test]
fn a_region_that_is_none_is_refused() {
    let mut device = Device::new(&[]);
    let before = device.footprint();
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(4 * GIB).unwrap();
    let region = |guest_address, size, user_address, mmap_offset| MemoryRegion {
        guest_address,
        size,
        user_address,
        mmap_offset,
    };
    for bad in [
        region(0, 0, 0, 0),
        region(u64::MAX - 4095, 8192, 0, 0),
        region(0, 8192, u64::MAX - 4095, 0),
        region(0, 8192, 0, u64::MAX - 4095),
        region(0, u64::MAX, 0, 0),
        region(0, 1 << 63, 0, 0),
        region(0, 4096, 0, 4 * GIB),
        region(0, 4 * GIB, 0, 1),
    ] {
        let frontend = Frontend::connect(&device.socket(), Wanted::default()).unwrap();
        let body = SingleRegion { padding: 0, region: bad };
        let socket = frontend.socket();
        let added = socket.send(Request::AddMemReg, body.as_bytes(), &[file.as_fd()]);
        assert!(matches!(added, Err(Error::Refused { .. } | Error::Gone)), "{bad:?}: {added:?}");
    }
    device.is_as(&before, SOON);
    device.stop();
}

#[test]
fn a_region_may_begin_anywhere_in_its_file() {
    let mut device = Device::new(&[]);
    let before = device.footprint();
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(4 * GIB).unwrap();
    for mmap_offset in [4096, GIB, GIB + 4096, 3 * GIB - (2 << 20), 1, GIB + 4095] {
        let frontend = Frontend::connect(&device.socket(), Wanted::default()).unwrap();
        let region =
            MemoryRegion { guest_address: 0, size: GIB, user_address: 1 << 40, mmap_offset };
        let body = SingleRegion { padding: 0, region };
        let socket = frontend.socket();
        socket.send(Request::AddMemReg, body.as_bytes(), &[file.as_fd()]).unwrap();
        socket.send(Request::RemMemReg, body.as_bytes(), &[]).unwrap();
    }
    device.is_as(&before, SOON);
    device.stop();
}

#[test]
fn memory_that_is_truncated_among_requests_costs_its_own_session_alone() {
    let mut device = Device::new(&[]);
    let before = device.footprint();
    for round in 0..20 {
        let mut mount = device.mount();
        fly(&mut mount, 16);
        let client = mount.client();
        // The ring stays in every second round: this process looks at nothing behind it.
        let kept = if round % 2 == 0 { 0 } else { client.scratch().0 - client.region().guest() };
        client.region().file().set_len(kept).unwrap();
        let kick = client.queue().kick();
        assert!(kick.is_ok());
        if kept > 0 {
            // Whether they were done before does not matter.
            let _ = client.queue().wait(Duration::from_millis(20));
        }
        drop(mount);
        device.serves_another();
    }
    device.is_as(&before, SOON);
    assert!(device.log().contains("truncated"), "{}", device.log());
    device.stop();
}

#[test]
fn memory_that_is_truncated_under_load_costs_its_own_session_alone() {
    let mut device = Device::new(&[]);
    std::fs::write(device.shared("large"), vec![7; 1 << 20]).unwrap();
    let before = device.footprint();
    for pause in [0, 50, 100, 200, 400, 800, 1600] {
        let options = MountOptions { data: 256 << 10, ..MountOptions::default() };
        let mut mount = device.mount_with(&options);
        let file = mount.client().lookup(ROOT, b"large").unwrap();
        let open = mount.client().open(file.nodeid, 0).unwrap();
        for at in 0..32 {
            let args = fsrv_frontend::abi::ReadIn {
                fh: open.fh,
                offset: at * 4096,
                size: 256 << 10,
                ..Default::default()
            };
            let call = fsrv_frontend::Call {
                op: fsrv_frontend::abi::Opcode::Read,
                node: file.nodeid,
                args: &[args.as_bytes()],
                payload: fsrv_frontend::Payload::Receive(256 << 10),
                reply: 0,
            };
            mount.client().submit(&call, at).unwrap();
        }
        mount.client().flush().unwrap();
        std::thread::sleep(Duration::from_micros(pause));
        mount.client().region().file().set_len(0).unwrap();
        drop(mount);
    }
    device.serves_another();
    device.is_as(&before, SOON);
    device.stop();
}

#[test]
fn a_dirty_log_that_is_truncated_costs_nobody_anything() {
    let mut device = Device::new(&[]);
    let before = device.footprint();
    let mut wanted = Wanted::default();
    wanted.features |= feature::LOG_ALL;
    for kept in [0, 4096] {
        let mut mount = device.mount_with(&MountOptions { wanted, ..MountOptions::default() });
        let file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(8192).unwrap();
        let body = Log { mmap_size: 8192, mmap_offset: 0 };
        let socket = mount.frontend.socket();
        socket.send_message(Request::SetLogBase, 0, body.as_bytes(), &[file.as_fd()]).unwrap();
        socket.answer(Request::SetLogBase).unwrap();
        fly(&mut mount, 16);
        file.set_len(kept).unwrap();
        while mount.client().in_flight() > 0 {
            assert_eq!(mount.client().wait().unwrap().errno, 0);
        }
        mount.unmount().unwrap();
    }
    device.serves_another();
    device.is_as(&before, SOON);
    device.stop();
}

#[test]
fn a_removed_region_is_unmapped_while_requests_go_on() {
    let device = Device::new(&[]);
    let mut mount = device.mount();
    let extra = fsrv_frontend::Region::new(1 << 40, 1 << 20).unwrap();
    for _ in 0..50 {
        fly(&mut mount, 16);
        mount.frontend.add_region(&extra).unwrap();
        mount.frontend.remove_region(&extra).unwrap();
        while mount.client().in_flight() > 0 {
            assert_eq!(mount.client().wait().unwrap().errno, 0);
        }
    }
    let regions = mount.frontend.regions().len();
    until(SOON, || {
        let now = super::device::Footprint::of(device.pid()).guests;
        if now == regions { Ok(()) } else { Err(format!("{now} of {regions}")) }
    });
    mount.unmount().unwrap();
    device.stop();
}
