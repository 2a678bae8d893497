//! Random requests of every operation.

use fsrv::{
    NodeId,
    abi::*,
    testing::{Call, ask},
};

use crate::{
    known::{Kind, Known},
    scripted::node_of,
    seed::Seed,
};

const NODES: [u64; 3] = [1, 200, 201];
const OWNERS: [u64; 3] = [7, 8, 9];
const NAMES: [&str; 4] = ["a", "b", "c", "dd"];

/// A request that takes nothing back.
pub(crate) fn any(seed: &mut Seed, known: &Known) -> (Call, Kind) {
    let node = NodeId(NODES[seed.below(NODES.len())]);
    let name = NAMES[seed.below(NAMES.len())];
    match seed.below(24) {
        0..4 => (ask(1, node).name(name), Kind::Entry),
        4 => (ask(1, node).name(["..", "."][seed.below(2)]), Kind::Entry),
        5 => (ask(35, node).arg(&fuse_create_in::default()).name(name), Kind::Create),
        6 => (ask(51, node).arg(&fuse_create_in::default()).name("/"), Kind::Create),
        7 | 8 => (ask(14, node).arg(&fuse_open_in::default()), Kind::Open),
        9 => (ask(27, node).arg(&fuse_open_in::default()), Kind::Open),
        10..14 => lock(seed, known),
        14 => readdirplus(seed, node),
        15 => making(seed, node, name),
        16 => (malformed(seed), Kind::Other),
        _ => (other(seed, node, name), Kind::Other),
    }
}

fn lock(seed: &mut Seed, known: &Known) -> (Call, Kind) {
    let node = NODES[seed.below(NODES.len())];
    let owner = OWNERS[seed.below(OWNERS.len())];
    if known.lock_in_doubt(node, owner) {
        return (ask(17, NodeId(node)), Kind::Other);
    }
    let opcode = if seed.once_in(4) { 32 } else { 33 };
    (ask(opcode, NodeId(node)).arg(&lock_in(owner, 1)), Kind::Lock { node, owner })
}

/// Drops a lock: by SETLK, or by FLUSH at a close.
pub(crate) fn unlock(seed: &mut Seed, node: u64, owner: u64) -> Call {
    if seed.once_in(3) {
        let arg = fuse_flush_in { lock_owner: owner, ..Default::default() };
        return ask(25, NodeId(node)).arg(&arg);
    }
    ask(32, NodeId(node)).arg(&lock_in(owner, 2))
}

fn lock_in(owner: u64, r#type: u32) -> fuse_lk_in {
    let lk = fuse_file_lock { start: 0, end: u64::MAX, r#type, pid: 1 };
    fuse_lk_in { owner, lk, ..Default::default() }
}

pub(crate) fn release(seed: &mut Seed, fh: u64, node: u64) -> Call {
    let opcode = if seed.once_in(2) { 18 } else { 29 };
    ask(opcode, NodeId(node)).arg(&fuse_release_in { fh, ..Default::default() })
}

pub(crate) fn forget(nodes: &[(u64, u64)]) -> Call {
    if let &[(node, nlookup)] = nodes {
        return ask(2, NodeId(node)).arg(&fuse_forget_in { nlookup });
    }
    let count = u32::try_from(nodes.len()).expect("few");
    let head = ask(42, NodeId(0)).arg(&fuse_batch_forget_in { count, dummy: 0 });
    nodes
        .iter()
        .fold(head, |call, &(nodeid, nlookup)| call.arg(&fuse_forget_one { nodeid, nlookup }))
}

fn readdirplus(seed: &mut Seed, node: NodeId) -> (Call, Kind) {
    let size = [0, 100, 200, 400, 4096][seed.below(5)];
    (ask(44, node).arg(&read_in(size)).room(4096), Kind::ReadDirPlus)
}

fn making(seed: &mut Seed, node: NodeId, name: &str) -> (Call, Kind) {
    let call = match seed.below(4) {
        0 => ask(6, node).name(name).name("target"),
        1 => ask(8, node).arg(&fuse_mknod_in::default()).name(name),
        2 => ask(9, node).arg(&fuse_mkdir_in::default()).name(name),
        _ => ask(13, node).arg(&fuse_link_in { oldnodeid: node_of(b"a").0 }).name(name),
    };
    (call.group(Some(5)), Kind::Entry)
}

fn other(seed: &mut Seed, node: NodeId, name: &str) -> Call {
    match seed.below(24) {
        0 => ask(3, node).arg(&fuse_getattr_in::default()),
        1 => ask(4, node).arg(&fuse_setattr_in::default()),
        2 => ask(5, node).room(4096),
        3 => ask(10, node).name(name),
        4 => ask(11, node).name(name),
        5 => ask(12, node).arg(&fuse_rename_in::default()).name(name).name("z"),
        6 => ask(45, node).arg(&fuse_rename2_in::default()).name(name).name("z"),
        7 => ask(15, node).arg(&read_in(4)).room(4),
        8 => write(node),
        9 => ask(17, node),
        10 => ask(20, node).arg(&fuse_fsync_in::default()),
        11 => ask(21, node).arg(&fuse_setxattr_in::default()).name("user.a"),
        12 => ask(22, node).arg(&fuse_getxattr_in::default()).name("user.a"),
        13 => ask(23, node).arg(&fuse_getxattr_in::default()),
        14 => ask(24, node).name("user.a"),
        15 => ask(28, node).arg(&read_in(4096)).room(4096),
        16 => ask(30, node).arg(&fuse_fsync_in::default()),
        17 => ask(31, node).arg(&lock_in(7, 0)),
        18 => ask(34, node).arg(&fuse_access_in::default()),
        19 => ask(40, node).arg(&fuse_poll_in::default()),
        20 => ask(43, node).arg(&fuse_fallocate_in::default()),
        21 => ask(46, node).arg(&fuse_lseek_in::default()),
        22 => ask(47, node).arg(&fuse_copy_file_range_in::default()),
        _ => rare(seed, node),
    }
}

fn rare(seed: &mut Seed, node: NodeId) -> Call {
    match seed.below(9) {
        0 => ask(37, node).arg(&fuse_bmap_in::default()),
        1 => ask(39, node).arg(&fuse_ioctl_in::default()),
        2 => ask(48, node).arg(&fuse_setupmapping_in::default()),
        3 => ask(49, node).arg(&fuse_removemapping_in::default()),
        4 => ask(50, node).arg(&fuse_syncfs_in::default()),
        5 => ask(52, node).arg(&fuse_statx_in::default()),
        6 => ask(53, node).arg(&fuse_copy_file_range_in::default()),
        7 => ask(41, node).arg(&fuse_notify_retrieve_in::default()),
        _ => ask(60, node),
    }
}

fn read_in(size: u32) -> fuse_read_in {
    fuse_read_in { size, ..Default::default() }
}

fn write(node: NodeId) -> Call {
    let arg = fuse_write_in { size: 3, ..Default::default() };
    ask(16, node).arg(&arg).data(b"abc")
}

/// An operation with too few arguments.
fn malformed(seed: &mut Seed) -> Call {
    let codes = [1, 4, 12, 14, 15, 16, 21, 32, 33, 35, 44, 49];
    // Without a NUL, so that it is no name.
    let garbage = (seed.number() | 0x0101_0101).to_ne_bytes();
    ask(codes[seed.below(codes.len())], NodeId(1)).data(&garbage[..seed.below(4)])
}
