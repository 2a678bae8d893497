//! The dirty log: every page of guest memory that changed is marked.

use std::collections::BTreeSet;
use std::sync::Arc;

use fsrv_frontend::abi::{
    AttrOut, EntryOut, GetattrIn, Opcode, ROOT, ReadIn, StatfsOut, WriteIn, WriteOut,
};
use fsrv_frontend::vhost_user::feature;
use fsrv_frontend::{
    Call, Cut, DirtyLog, Form, Framing, Mount, MountOptions, PAGE, Payload, Region, Wanted,
};
use zerocopy::IntoBytes;

use super::device::Device;

/// Everything in guest memory, by region.
type Snapshot = Vec<(u64, Vec<u8>)>;

fn snapshot(mount: &Mount) -> Snapshot {
    let copy = |region: &Arc<Region>| {
        (region.guest(), region.read_vec(region.guest(), region.size() as usize))
    };
    mount.frontend.regions().iter().map(copy).collect()
}

/// The pages that differ.
fn changed(before: &Snapshot, after: &Snapshot) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    for ((guest, before), (_, after)) in before.iter().zip(after) {
        let both = before.chunks(PAGE as usize).zip(after.chunks(PAGE as usize));
        let numbers = (guest / PAGE..).zip(both).filter(|(_, (before, after))| before != after);
        pages.extend(numbers.map(|(number, _)| number));
    }
    pages
}

/// Makes one request and compares what the device changed with what is marked.
fn compare(mount: &mut Mount, log: &DirtyLog, name: &str, call: &Call<'_>) -> i32 {
    // What this side writes is written before the device looks.
    mount.frontend.enable_queue(1, false).unwrap();
    mount.client().submit(call, 1).unwrap();
    mount.client().flush().unwrap();
    let before = snapshot(mount);
    log.take();
    mount.frontend.enable_queue(1, true).unwrap();
    let done = mount.client().wait().unwrap();
    mount.frontend.enable_queue(1, false).unwrap();
    let marked: BTreeSet<u64> = log.take().into_iter().collect();
    let mut changed = changed(&before, &snapshot(mount));
    mount.frontend.enable_queue(1, true).unwrap();

    let ring = mount.client().ring().clone();
    let used = ring.used / PAGE;
    // Waiting writes into the available ring.
    if (ring.available / PAGE..=(ring.available + 600) / PAGE).all(|page| page != used) {
        changed.remove(&(ring.available / PAGE));
    }
    let missing: Vec<_> = changed.difference(&marked).collect();
    assert!(missing.is_empty(), "{name}: {missing:?} changed, and only {marked:?} are marked");
    assert!(marked.contains(&used), "{name}: the used ring's page {used} is not in {marked:?}");
    done.errno
}

fn call<'a>(
    op: Opcode,
    node: u64,
    args: &'a [&'a [u8]],
    payload: Payload<'a>,
    reply: usize,
) -> Call<'a> {
    Call { op, node, args, payload, reply: reply as u32 }
}

#[test]
fn every_page_that_changes_is_marked() {
    let device = Device::new(&[]);
    std::fs::write(device.shared("large"), vec![5; 200_000]).unwrap();
    (0..200).for_each(|n| std::fs::write(device.shared(format!("f{n}")), "x").unwrap());
    for (form, cut, shift) in [
        (Form::Indirect, Cut::Parts, 0),
        (Form::Chained, Cut::Parts, 1),
        (Form::Chained, Cut::Joined, 4095),
        (Form::Indirect, Cut::Every(4096), 17),
        (Form::Chained, Cut::Every(100), 1000),
    ] {
        let mut wanted = Wanted::default();
        wanted.features |= feature::LOG_ALL;
        let options = MountOptions {
            wanted,
            form,
            framing: Framing { cut, shift, pages: false },
            ring_size: 1024,
            depth: 2,
            table_len: 64,
            ..MountOptions::default()
        };
        let mut mount = device.mount_with(&options);
        let ends = mount.frontend.regions().iter().map(|region| region.guest() + region.size());
        let pages = ends.max().unwrap() / PAGE + 1;
        let log = mount.frontend.set_log(pages).unwrap();
        every_kind_of_request(&mut mount, &log);
        mount.unmount().unwrap();
    }
    device.stop();
}

fn every_kind_of_request(mount: &mut Mount, log: &DirtyLog) {
    let client = mount.client();
    let file = client.lookup(ROOT, b"large").unwrap();
    let (node, fh) = (file.nodeid, client.open(file.nodeid, 2).unwrap().fh);
    let dir = client.opendir(ROOT).unwrap().fh;
    for (name, op, node, fh, offset) in [
        ("a read", Opcode::Read, node, fh, 100),
        ("a short read", Opcode::Read, node, fh, 199_000),
        ("a read of nothing", Opcode::Read, node, fh, 1 << 30),
        ("a read of no handle", Opcode::Read, node, u64::MAX, 0),
        ("a directory", Opcode::Readdirplus, ROOT, dir, 0),
    ] {
        let args = ReadIn { fh, offset, size: 60_000, ..ReadIn::default() };
        let args: &[&[u8]] = &[args.as_bytes()];
        compare(mount, log, name, &call(op, node, args, Payload::Receive(60_000), 0));
    }
    let args = GetattrIn::default();
    let args: &[&[u8]] = &[args.as_bytes()];
    let getattr = call(Opcode::Getattr, node, args, Payload::None, size_of::<AttrOut>());
    assert_eq!(compare(mount, log, "attributes", &getattr), 0);
    let statfs = call(Opcode::Statfs, ROOT, &[], Payload::None, size_of::<StatfsOut>());
    assert_eq!(compare(mount, log, "a filesystem", &statfs), 0);
    for (name, errno) in [(&b"file\0"[..], 0), (b"missing\0", 2)] {
        let args: &[&[u8]] = &[name];
        let lookup = call(Opcode::Lookup, ROOT, args, Payload::None, size_of::<EntryOut>());
        assert_eq!(compare(mount, log, "a name", &lookup), errno);
    }
    let data = vec![1; 50_000];
    let args = WriteIn { fh, offset: 7, size: 50_000, ..WriteIn::default() };
    let args: &[&[u8]] = &[args.as_bytes()];
    let write = call(Opcode::Write, node, args, Payload::Send(&data), size_of::<WriteOut>());
    assert_eq!(compare(mount, log, "a write", &write), 0);
}
