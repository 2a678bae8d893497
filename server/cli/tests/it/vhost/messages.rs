//! Messages that are wrong, or right at the wrong time, with requests in flight.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fsrv_frontend::abi::ROOT;
use fsrv_frontend::vhost_user::{
    MemoryRegion, Request, SingleRegion, U64, VringAddr, VringState, feature,
};
use fsrv_frontend::{
    Call, Client, Error, Mount, MountOptions, Payload, Region, Result, abi, hostile,
};
use rustix::event::{EventfdFlags, eventfd};
use zerocopy::IntoBytes;

use super::device::{Device, SOON};
use super::stuck::{FILE, Stuck};

/// Requests in flight when a message comes.
const FLIGHT: u64 = 32;

/// A message, and where it finds the requests that are in flight.
type Message = (&'static str, fn(&mut Mount) -> Result<()>);

#[test]
fn a_bad_message_ends_at_most_its_own_session() {
    let mut device = Device::new(&[]);
    let before = device.footprint();
    let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    for message in hostile::bad_messages() {
        let socket = device.connect();
        // The server may have hung up already.
        let _ = socket.send_raw(&message.bytes, &vec![fd.as_fd(); message.fds]);
    }
    device.serves_another();
    device.is_as(&before, SOON);
    assert!(device.log().contains("no valid message"), "{}", device.log());
    assert!(device.log().lines().count() < 200, "{} lines", device.log().lines().count());
    device.stop();
}

#[test]
fn a_bad_message_among_requests_ends_at_most_its_own_session() {
    let mut device = Device::new(&[]);
    let before = device.footprint();
    let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    for message in hostile::bad_messages() {
        let mut mount = device.mount();
        fly(&mut mount, FLIGHT);
        // As above.
        let _ = mount.frontend.socket().send_raw(&message.bytes, &vec![fd.as_fd(); message.fds]);
    }
    device.serves_another();
    device.is_as(&before, SOON);
    device.stop();
}

#[test]
fn every_message_may_come_at_every_point_of_requests() {
    let mut device = Device::new(&[]);
    let before = device.footprint();
    for (name, message) in messages() {
        for done in [0, 1, 15, 31, FLIGHT] {
            let mut mount = device.mount();
            mount.frontend.socket().set_limit(SOON).unwrap();
            fly(&mut mount, FLIGHT);
            for _ in 0..done {
                mount.client().wait().unwrap();
            }
            if let Err(Error::Timeout(what)) = message(&mut mount) {
                panic!("{name} after {done} requests: no {what}; {}", device.log());
            }
        }
        device.serves_another();
    }
    device.is_as(&before, SOON);
    device.stop();
}

#[test]
fn a_front_end_whose_request_never_ends_makes_the_next_wait_five_seconds_at_most() {
    let waiting = [
        "nothing",
        "GET_VRING_BASE",
        "SET_MEM_TABLE that shrinks",
        "REM_MEM_REG",
        "RESET_DEVICE",
        "RESET_OWNER",
        "SET_VRING_KICK",
        "SET_FEATURES without EVENT_IDX",
    ];
    thread::scope(|scope| {
        for (name, message) in messages() {
            if waiting.contains(&name) {
                scope.spawn(move || waits_for_a_stuck_request(name, message));
            }
        }
    });
}

fn waits_for_a_stuck_request(name: &str, message: fn(&mut Mount) -> Result<()>) {
    let mut device = Device::new(&[]);
    let mut stuck = Stuck::at(&device.shared("stuck"));
    let before = device.footprint();
    let mut mount = device.mount();
    never_ends(mount.client(), &mut stuck);
    fly(&mut mount, FLIGHT - 1);
    for _ in 0..FLIGHT - 1 {
        mount.client().wait().unwrap();
    }
    mount.frontend.socket().set_limit(Duration::from_millis(1500)).unwrap();
    // Whether it can be done does not matter here.
    let _ = message(&mut mount);
    drop(mount);

    let start = Instant::now();
    device.serves_another();
    let took = start.elapsed();

    assert!(took < Duration::from_secs(8), "after {name}: {took:?}; {}", device.log());
    let named = "requests do not end and are abandoned: read ";
    assert!(device.log().contains(named), "after {name}: {}", device.log());
    stuck.go_on();
    device.is_as(&before, SOON);
    drop(stuck);
    device.stop();
}

/// Submits a READ that is not answered before `stuck` goes on.
pub(super) fn never_ends(client: &mut Client, stuck: &mut Stuck) {
    let file = client.resolve(&[b"stuck", FILE]).unwrap();
    let open = client.open(file.nodeid, 0).unwrap();
    stuck.stop();
    read(client, file.nodeid, open.fh, 16);
    client.flush().unwrap();
}

/// Submits `count` reads of the file.
pub(super) fn fly(mount: &mut Mount, count: u64) {
    let client = mount.client();
    let file = client.lookup(ROOT, b"file").unwrap();
    let open = client.open(file.nodeid, 0).unwrap();
    for _ in 0..count {
        read(client, file.nodeid, open.fh, 4096);
    }
    client.flush().unwrap();
}

fn read(client: &mut Client, node: u64, fh: u64, size: u32) {
    let args = abi::ReadIn { fh, size, ..abi::ReadIn::default() };
    let call = Call {
        op: abi::Opcode::Read,
        node,
        args: &[args.as_bytes()],
        payload: Payload::Receive(size),
        reply: 0,
    };
    client.submit(&call, 1).unwrap();
}

/// Every message of the protocol that can be done, and some that cannot.
fn messages() -> Vec<Message> {
    vec![
        ("nothing", |_| Ok(())),
        ("GET_FEATURES", |mount| ask_u64(mount, Request::GetFeatures)),
        ("SET_FEATURES", |mount| mount.frontend.set_features(mount.frontend.features())),
        ("SET_FEATURES without EVENT_IDX", |mount| {
            mount.frontend.set_features(mount.frontend.features() & !feature::EVENT_IDX)
        }),
        ("SET_FEATURES of 0", |mount| mount.frontend.set_features(0)),
        ("SET_FEATURES of everything", |mount| mount.frontend.set_features(u64::MAX)),
        ("SET_OWNER", |mount| send(mount, Request::SetOwner, &[])),
        ("RESET_OWNER", |mount| send(mount, Request::ResetOwner, &[])),
        ("SET_MEM_TABLE as it is", |mount| {
            let regions = mount.frontend.regions().to_vec();
            mount.frontend.set_memory(&regions)
        }),
        ("SET_MEM_TABLE that shrinks", |mount| {
            let regions = mount.frontend.regions().to_vec();
            mount.frontend.set_memory(&regions[..1])
        }),
        ("SET_MEM_TABLE of nothing", |mount| mount.frontend.set_memory(&[])),
        ("SET_MEM_TABLE that overlaps", |mount| {
            let mut regions = mount.frontend.regions().to_vec();
            regions.push(Region::new(regions[0].guest() + 4096, 8192)?);
            mount.frontend.set_memory(&regions)
        }),
        ("ADD_MEM_REG", |mount| mount.frontend.add_region(&Region::new(1 << 40, 1 << 20)?)),
        ("ADD_MEM_REG that overlaps", |mount| {
            let guest = mount.frontend.regions()[1].guest();
            mount.frontend.add_region(&Region::new(guest, 4096)?)
        }),
        ("REM_MEM_REG", |mount| {
            let region = Arc::clone(&mount.frontend.regions()[1]);
            mount.frontend.remove_region(&region)
        }),
        ("REM_MEM_REG of another", |mount| {
            let body = SingleRegion { padding: 0, region: MemoryRegion::default() };
            send(mount, Request::RemMemReg, body.as_bytes())
        }),
        ("SET_LOG_BASE", |mount| mount.frontend.set_log(1 << 20).map(drop)),
        ("SET_VRING_NUM", |mount| state(mount, Request::SetVringNum, 256)),
        ("SET_VRING_NUM of 3", |mount| state(mount, Request::SetVringNum, 3)),
        ("SET_VRING_ADDR", |mount| {
            let Mount { frontend, clients, .. } = mount;
            frontend.set_ring_address(1, clients[0].queue())
        }),
        ("SET_VRING_ADDR elsewhere", |mount| {
            let address = VringAddr { index: 1, ..VringAddr::default() };
            send(mount, Request::SetVringAddr, address.as_bytes())
        }),
        ("SET_VRING_BASE", |mount| state(mount, Request::SetVringBase, 7)),
        ("GET_VRING_BASE", |mount| mount.frontend.stop_queue(1).map(drop)),
        ("GET_VRING_BASE of no ring", |mount| mount.frontend.stop_queue(255).map(drop)),
        ("SET_VRING_KICK", |mount| {
            let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
            mount.frontend.set_kick(1, Some(event.as_fd()))
        }),
        ("SET_VRING_KICK of none", |mount| mount.frontend.set_kick(1, None)),
        ("SET_VRING_CALL", |mount| {
            let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
            mount.frontend.set_call(1, Some(event.as_fd()))
        }),
        ("SET_VRING_CALL of none", |mount| mount.frontend.set_call(1, None)),
        ("SET_VRING_ENABLE", |mount| mount.frontend.enable_queue(1, true)),
        ("SET_VRING_ENABLE of 0", |mount| mount.frontend.enable_queue(1, false)),
        ("GET_PROTOCOL_FEATURES", |mount| ask_u64(mount, Request::GetProtocolFeatures)),
        ("GET_QUEUE_NUM", |mount| mount.frontend.queue_limit().map(drop)),
        ("GET_MAX_MEM_SLOTS", |mount| mount.frontend.memory_slots().map(drop)),
        ("GET_CONFIG", |mount| mount.frontend.fs_config().map(drop)),
        ("RESET_DEVICE", |mount| mount.frontend.reset_device()),
    ]
}

fn ask_u64(mount: &mut Mount, request: Request) -> Result<()> {
    let answer: Result<U64> = mount.frontend.socket().ask(request, &[0u8; 0], &[]);
    answer.map(drop)
}

fn state(mount: &mut Mount, request: Request, num: u32) -> Result<()> {
    send(mount, request, VringState { index: 1, num }.as_bytes())
}

fn send(mount: &mut Mount, request: Request, body: &[u8]) -> Result<()> {
    mount.frontend.socket().send(request, body, &[])
}

#[test]
fn requests_end_well_when_their_queue_stops_and_goes_on_at_any_point() {
    let device = Device::new(&[]);
    let options = MountOptions::default();
    let mut mount = device.mount_with(&options);
    for done in 0..=FLIGHT {
        fly(&mut mount, FLIGHT);
        for _ in 0..done {
            mount.client().wait().unwrap();
        }
        let base = mount.frontend.stop_queue(1).unwrap();
        while let Some(answer) = mount.client().poll().unwrap() {
            assert_eq!(answer.errno, 0);
        }
        let Mount { frontend, clients, .. } = &mut mount;
        assert_eq!(base, clients[0].queue().used_index());
        clients[0].queue().bell_mut().renew().unwrap();
        frontend.start_queue(1, clients[0].queue()).unwrap();
        while clients[0].in_flight() > 0 {
            assert_eq!(clients[0].wait().unwrap().errno, 0);
        }
    }
    mount.unmount().unwrap();
    device.stop();
}
