//! What a program may do with files, chosen at random from a small world in which names often meet.

use proptest::prelude::*;
use proptest::sample::select;
use rustix::fs::{FallocateFlags, OFlags, RenameFlags, XattrFlags};

/// How many files a side keeps open.
pub(crate) const SLOTS: usize = 3;

/// Who asks: a permission is part of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum User {
    Root,
    /// uid 1001, gid 1001, also in group 1003.
    Ordinary,
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) user: User,
    pub(crate) op: Op,
}

/// A path below a side's root.
pub(crate) type Place = Vec<Name>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Name {
    A,
    B,
    C,
    NotUtf8,
    Longest,
    TooLong,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    File,
    Fifo,
    Socket,
    /// A device number that no driver has.
    Device,
}

/// Seconds and nanoseconds, or what stands for a time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Time {
    At(i64, u32),
    Now,
    Omit,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Open {
        slot: usize,
        at: Place,
        flags: OFlags,
        mode: u32,
    },
    Tmpfile {
        slot: usize,
        at: Place,
        mode: u32,
    },
    LinkOpen {
        slot: usize,
        to: Place,
    },
    Close {
        slot: usize,
    },
    Read {
        slot: usize,
        offset: u64,
        len: usize,
    },
    Write {
        slot: usize,
        offset: u64,
        len: usize,
        fill: u8,
    },
    Append {
        slot: usize,
        len: usize,
        fill: u8,
    },
    SetLen {
        slot: usize,
        size: u64,
    },
    Fallocate {
        slot: usize,
        flags: FallocateFlags,
        offset: u64,
        len: u64,
    },
    Seek {
        slot: usize,
        offset: u64,
        hole: bool,
    },
    Copy {
        from: usize,
        to: usize,
        offset: u64,
        target: u64,
        len: usize,
    },
    Sync {
        slot: usize,
    },
    Fstat {
        slot: usize,
    },
    Fchmod {
        slot: usize,
        mode: u32,
    },
    Mkdir {
        at: Place,
        mode: u32,
    },
    Rmdir {
        at: Place,
    },
    Unlink {
        at: Place,
    },
    Rename {
        from: Place,
        to: Place,
        flags: RenameFlags,
    },
    Link {
        from: Place,
        to: Place,
    },
    Symlink {
        target: &'static str,
        at: Place,
    },
    Readlink {
        at: Place,
    },
    Mknod {
        at: Place,
        kind: Kind,
        mode: u32,
    },
    Chmod {
        at: Place,
        mode: u32,
    },
    Chown {
        at: Place,
        uid: Option<u32>,
        gid: Option<u32>,
        follow: bool,
    },
    Utimens {
        at: Place,
        atime: Time,
        mtime: Time,
    },
    Stat {
        at: Place,
        follow: bool,
    },
    Access {
        at: Place,
        mode: u32,
    },
    SetXattr {
        at: Place,
        name: &'static str,
        len: usize,
        flags: XattrFlags,
    },
    GetXattr {
        at: Place,
        name: &'static str,
    },
    RemoveXattr {
        at: Place,
        name: &'static str,
    },
    ListXattr {
        at: Place,
    },
    ReadDir {
        at: Place,
    },
    StatFs {
        at: Place,
    },
    /// What the kernel remembers of files nobody uses, and with the pages what it has of any.
    DropCaches {
        pages: bool,
    },
}

/// What every sequence begins with: some files and directories, and every slot open.
pub(crate) fn prelude() -> Vec<Step> {
    let (a, b, c) = (vec![Name::A], vec![Name::B], vec![Name::C]);
    let new = OFlags::RDWR | OFlags::CREATE;
    let ops = [
        Op::Mkdir { at: a.clone(), mode: 0o777 },
        Op::Mkdir { at: vec![Name::A, Name::A], mode: 0o755 },
        Op::Open { slot: 0, at: c.clone(), flags: new, mode: 0o666 },
        Op::Open { slot: 1, at: vec![Name::A, Name::B], flags: new, mode: 0o666 },
        Op::Open { slot: 2, at: b, flags: new, mode: 0o666 },
        Op::Write { slot: 0, offset: 0, len: 150_000, fill: b'c' },
        Op::Write { slot: 1, offset: 70_000, len: 10, fill: b'b' },
        Op::SetXattr { at: c, name: "user.a", len: 10, flags: XattrFlags::empty() },
        Op::Chmod { at: a, mode: 0o777 },
    ];
    ops.map(|op| Step { user: User::Root, op }).to_vec()
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let user = prop_oneof![4 => Just(User::Root), 1 => Just(User::Ordinary)];
    let step = (user, op()).prop_map(|(user, op)| Step { user, op });
    prop::collection::vec(step, 1..200)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        600 => open().boxed(),
        800 => on_open_file().boxed(),
        1000 => on_tree().boxed(),
        600 => on_attributes().boxed(),
        // Everybody on this machine notices.
        9 => Just(Op::DropCaches { pages: false }).boxed(),
        1 => Just(Op::DropCaches { pages: true }).boxed(),
    ]
}

fn open() -> impl Strategy<Value = Op> {
    let access = select(vec![OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR]);
    let extra = [
        OFlags::EXCL,
        OFlags::TRUNC,
        OFlags::APPEND,
        OFlags::NOFOLLOW,
        OFlags::DIRECTORY,
        OFlags::PATH,
    ];
    let extra = prop_oneof![2 => Just(OFlags::empty()), 1 => select(extra.to_vec())];
    let create = prop_oneof![2 => Just(OFlags::CREATE), 1 => Just(OFlags::empty())];
    let flags = (access, extra, create).prop_map(|(access, extra, create)| access | extra | create);
    prop_oneof![
        6 => (0..SLOTS, place(), flags, mode()).prop_map(|(slot, at, flags, mode)| Op::Open { slot, at, flags, mode }),
        1 => (0..SLOTS, place(), mode()).prop_map(|(slot, at, mode)| Op::Tmpfile { slot, at, mode }),
        1 => (0..SLOTS, place()).prop_map(|(slot, to)| Op::LinkOpen { slot, to }),
        1 => (0..SLOTS).prop_map(|slot| Op::Close { slot }),
    ]
}

fn on_open_file() -> impl Strategy<Value = Op> {
    let slot = || 0..SLOTS;
    let fallocate = [
        FallocateFlags::empty(),
        FallocateFlags::KEEP_SIZE,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        FallocateFlags::ZERO_RANGE,
        FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    ];
    prop_oneof![
        4 => (slot(), offset(), len()).prop_map(|(slot, offset, len)| Op::Read { slot, offset, len }),
        4 => (slot(), offset(), len(), any::<u8>())
            .prop_map(|(slot, offset, len, fill)| Op::Write { slot, offset, len, fill }),
        2 => (slot(), len(), any::<u8>()).prop_map(|(slot, len, fill)| Op::Append { slot, len, fill }),
        2 => (slot(), prop_oneof![9 => offset(), 1 => Just(1 << 50)]).prop_map(|(slot, size)| Op::SetLen { slot, size }),
        1 => (slot(), select(fallocate.to_vec()), offset(), offset())
            .prop_map(|(slot, flags, offset, len)| Op::Fallocate { slot, flags, offset, len }),
        2 => (slot(), offset(), any::<bool>()).prop_map(|(slot, offset, hole)| Op::Seek { slot, offset, hole }),
        1 => (slot(), slot(), offset(), offset(), len())
            .prop_map(|(from, to, offset, target, len)| Op::Copy { from, to, offset, target, len }),
        1 => slot().prop_map(|slot| Op::Sync { slot }),
        2 => slot().prop_map(|slot| Op::Fstat { slot }),
        1 => (slot(), mode()).prop_map(|(slot, mode)| Op::Fchmod { slot, mode }),
    ]
}

fn on_tree() -> impl Strategy<Value = Op> {
    let flags = [
        RenameFlags::empty(),
        RenameFlags::NOREPLACE,
        RenameFlags::EXCHANGE,
        RenameFlags::WHITEOUT,
    ];
    let targets = ["a", "b", "c", "a/b", "b/../a", "./c/a", "nowhere", "a/a/a"];
    let kinds = [Kind::File, Kind::Fifo, Kind::Socket, Kind::Device];
    prop_oneof![
        4 => (place(), mode()).prop_map(|(at, mode)| Op::Mkdir { at, mode }),
        1 => place().prop_map(|at| Op::Rmdir { at }),
        2 => place().prop_map(|at| Op::Unlink { at }),
        4 => (place(), place(), select(flags.to_vec())).prop_map(|(from, to, flags)| Op::Rename { from, to, flags }),
        2 => (place(), place()).prop_map(|(from, to)| Op::Link { from, to }),
        1 => (select(targets.to_vec()), place()).prop_map(|(target, at)| Op::Symlink { target, at }),
        1 => place().prop_map(|at| Op::Readlink { at }),
        1 => (place(), select(kinds.to_vec()), mode()).prop_map(|(at, kind, mode)| Op::Mknod { at, kind, mode }),
        2 => place().prop_map(|at| Op::ReadDir { at }),
        1 => place().prop_map(|at| Op::StatFs { at }),
    ]
}

fn on_attributes() -> impl Strategy<Value = Op> {
    let id = || select(vec![None, Some(0), Some(1001), Some(1003)]);
    let xattr = || select(vec!["user.a", "user.b", "trusted.a", "security.fsrv"]);
    let flags = [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE];
    let size = select(vec![0, 1, 10, 200, 3000]);
    prop_oneof![
        3 => (place(), any::<bool>()).prop_map(|(at, follow)| Op::Stat { at, follow }),
        2 => (place(), mode()).prop_map(|(at, mode)| Op::Chmod { at, mode }),
        2 => (place(), id(), id(), any::<bool>())
            .prop_map(|(at, uid, gid, follow)| Op::Chown { at, uid, gid, follow }),
        2 => (place(), time(), time()).prop_map(|(at, atime, mtime)| Op::Utimens { at, atime, mtime }),
        1 => (place(), 0..8u32).prop_map(|(at, mode)| Op::Access { at, mode }),
        2 => (place(), xattr(), size, select(flags.to_vec()))
            .prop_map(|(at, name, len, flags)| Op::SetXattr { at, name, len, flags }),
        1 => (place(), xattr()).prop_map(|(at, name)| Op::GetXattr { at, name }),
        1 => (place(), xattr()).prop_map(|(at, name)| Op::RemoveXattr { at, name }),
        1 => place().prop_map(|at| Op::ListXattr { at }),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    let plain = || prop_oneof![8 => Just(Name::A), 6 => Just(Name::B), 4 => Just(Name::C)];
    let odd = select(vec![Name::NotUtf8, Name::Longest, Name::TooLong]);
    let name = prop_oneof![20 => plain(), 1 => odd];
    let directories = prop_oneof![
        6 => Just(vec![]),
        4 => plain().prop_map(|name| vec![name]),
        1 => (plain(), plain()).prop_map(|(first, second)| vec![first, second]),
    ];
    // Without boxes the strategies of all operations together are too large for a thread's stack.
    (directories, name).prop_map(|(directories, name)| [directories, vec![name]].concat()).boxed()
}

fn mode() -> impl Strategy<Value = u32> {
    select(vec![0o644, 0o600, 0o755, 0o777, 0o777, 0o000, 0o4755, 0o2755, 0o6777, 0o1777, 0o2777])
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..200u64, 0..200_000u64, (0..50u64).prop_map(|page| page * 4096)]
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 1..200usize, 1..70_000usize, Just(4096), Just(65_536)]
}

fn time() -> impl Strategy<Value = Time> {
    let at = (select(vec![-5, 0, 1_000_000_000, (1 << 31) + 7]), select(vec![0, 1, 999_999_999]));
    prop_oneof![3 => at.prop_map(|(s, ns)| Time::At(s, ns)), 1 => Just(Time::Now), 1 => Just(Time::Omit)]
}
