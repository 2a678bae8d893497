//! A filesystem that answers every operation with the same reply, and the bytes of both.

use std::time::Duration;

use fsrv::{Context, Errno, FileSystem, Name, NodeId, Result, abi::*, op::*, testing::*, types::*};
use fsrv_transport::mem::Filled;
use zerocopy::IntoBytes;

/// Answers everything.
pub(crate) struct Sample;

pub(crate) const ATTR: Attr = Attr {
    ino: 0x1122_3344_5566_7788,
    size: 4097,
    blocks: 16,
    atime: Timestamp { sec: -1, nsec: 1 },
    mtime: Timestamp { sec: 2, nsec: 22 },
    ctime: Timestamp { sec: 3, nsec: 333 },
    mode: 0o100_644,
    nlink: 5,
    uid: 6,
    gid: 7,
    rdev: 0x801,
    blksize: 4096,
    submount: true,
};

const ENTRY: Entry = Entry {
    nodeid: NodeId(42),
    generation: 43,
    attr: ATTR,
    entry_ttl: Duration::new(1, 2),
    attr_ttl: Duration::new(3, 4),
};

const OPENED: Opened = Opened { fh: Fh(99), flags: FOPEN_KEEP_CACHE };

macro_rules! answers {
    ($( $method:ident($request:ident $(<$r:lifetime>)?) -> $reply:ty { $answer:expr } )*) => {
        impl FileSystem for Sample {
            $( async fn $method(&self, _: &Context, _: $request $(<$r>)?) -> Result<$reply> {
                Ok($answer)
            } )*

            async fn readlink(&self, _: &Context, mut op: ReadLink) -> Result<Filled> {
                op.out.append(b"target").map_err(|_| Errno::ERANGE)?;
                Ok(op.out.finish())
            }

            async fn read(&self, _: &Context, mut op: Read) -> Result<Filled> {
                op.out.append(b"some data").map_err(|_| Errno::EIO)?;
                Ok(op.out.finish())
            }

            async fn write(&self, _: &Context, op: Write) -> Result<u32> {
                if op.data.to_vec() == b"written" { Ok(7) } else { Err(Errno::EBADF) }
            }

            async fn setxattr(&self, _: &Context, op: SetXattr<'_>) -> Result<()> {
                let expected = (c"user.name", &b"value"[..]);
                if (op.name, op.value) == expected { Ok(()) } else { Err(Errno::EBADF) }
            }

            async fn readdir(&self, _: &Context, mut op: ReadDir) -> Result<DirBuf> {
                op.entries.push(5, 1, 4, b".").map_err(|_| Errno::EINVAL)?;
                op.entries.push(6, 2, 8, b"eight888").map_err(|_| Errno::EINVAL)?;
                Ok(op.entries)
            }

            async fn readdirplus(&self, _: &Context, mut op: ReadDirPlus) -> Result<DirPlusBuf> {
                op.entries.push(5, 1, 4, b"..", None).map_err(|_| Errno::EINVAL)?;
                op.entries.push(6, 2, 8, b"name", Some(&ENTRY)).map_err(|_| Errno::EINVAL)?;
                Ok(op.entries)
            }

            async fn ioctl(&self, _: &Context, mut op: Ioctl<'_>) -> Result<Ioctled> {
                op.out.append(op.input).map_err(|_| Errno::EIO)?;
                Ok(Ioctled { result: -3, data: op.out.finish() })
            }

            async fn removemapping(&self, _: &Context, op: RemoveMapping<'_>) -> Result<()> {
                if op.parts.len() == 2 { Ok(()) } else { Err(Errno::EBADF) }
            }
        }
    };
}

answers! {
    lookup(Lookup<'_>) -> Entry { ENTRY }
    getattr(GetAttr) -> Attributes { Attributes { attr: ATTR, ttl: Duration::new(5, 6) } }
    setattr(SetAttr) -> Attributes { Attributes { attr: ATTR, ttl: Duration::new(5, 6) } }
    statx(GetStatx) -> Statx { STATX }
    symlink(Symlink<'_>) -> Entry { ENTRY }
    mknod(MkNod<'_>) -> Entry { ENTRY }
    mkdir(MkDir<'_>) -> Entry { ENTRY }
    link(Link<'_>) -> Entry { ENTRY }
    unlink(Unlink<'_>) -> () { () }
    rmdir(RmDir<'_>) -> () { () }
    rename(Rename<'_>) -> () { () }
    open(Open) -> Opened { OPENED }
    create(Create<'_>) -> Created { Created { entry: ENTRY, opened: OPENED } }
    tmpfile(TmpFile) -> Created { Created { entry: ENTRY, opened: OPENED } }
    statfs(GetStatFs) -> StatFs { STATFS }
    release(Release) -> () { () }
    fsync(Fsync) -> () { () }
    flush(Flush) -> () { () }
    getxattr(GetXattr<'_>) -> Xattr { Xattr::Size(321) }
    listxattr(ListXattr) -> Xattr { Xattr::Size(123) }
    removexattr(RemoveXattr<'_>) -> () { () }
    opendir(OpenDir) -> Opened { OPENED }
    releasedir(ReleaseDir) -> () { () }
    fsyncdir(FsyncDir) -> () { () }
    getlk(GetLk) -> FileLock { FileLock { start: 1, end: 2, kind: LockKind::Write, pid: 3 } }
    setlk(SetLk) -> () { () }
    access(Access) -> () { () }
    bmap(Bmap) -> Mapped { Mapped(77) }
    poll(PollEvents) -> Events { Events(5) }
    fallocate(Fallocate) -> () { () }
    lseek(Lseek) -> u64 { 1 << 40 }
    copy_file_range(CopyFileRange) -> u64 { 4096 }
    setupmapping(SetupMapping) -> () { () }
    syncfs(SyncFs) -> () { () }
}

const STATX: Statx = Statx {
    attr: ATTR,
    btime: Some(Timestamp { sec: 4, nsec: 4444 }),
    attributes: 0x10,
    attributes_mask: 0x30,
    ttl: Duration::new(5, 6),
};

const STATFS: StatFs = StatFs {
    blocks: 1,
    bfree: 2,
    bavail: 3,
    files: 4,
    ffree: 5,
    bsize: 6,
    namelen: 255,
    frsize: 8,
};

/// One well-formed request and the body of its reply.
pub(crate) struct Transcript {
    pub(crate) code: u32,
    pub(crate) call: Call,
    pub(crate) reply: Vec<u8>,
}

/// A request of every operation.
pub(crate) fn transcripts() -> Vec<Transcript> {
    let mut all = Vec::new();
    let mut add = |code: u32, fill: &dyn Fn(Call) -> Call, reply: Vec<u8>| {
        all.push(Transcript { code, call: fill(ask(code, NodeId(1))), reply });
    };
    add(1, &|c| c.name("name"), entry());
    add(3, &|c| c.arg(&fuse_getattr_in::default()), attr());
    add(4, &|c| c.arg(&fuse_setattr_in::default()), attr());
    add(5, &|c| c.room(100), b"target".to_vec());
    add(6, &|c| c.name("name").name("target"), entry());
    add(8, &|c| c.arg(&fuse_mknod_in::default()).name("name"), entry());
    add(9, &|c| c.arg(&fuse_mkdir_in::default()).name("name"), entry());
    add(10, &|c| c.name("name"), vec![]);
    add(11, &|c| c.name("name"), vec![]);
    add(12, &|c| c.arg(&fuse_rename_in { newdir: 1 }).name("old").name("new"), vec![]);
    add(13, &|c| c.arg(&fuse_link_in { oldnodeid: 2 }).name("name"), entry());
    add(14, &|c| c.arg(&fuse_open_in::default()), open());
    add(15, &|c| c.arg(&read_in(512)).room(512), b"some data".to_vec());
    add(16, &|c| c.arg(&write_in(7)).data(b"written"), bytes(&[7u32, 0]));
    add(17, &|c| c, statfs());
    add(18, &|c| c.arg(&fuse_release_in::default()), vec![]);
    add(20, &|c| c.arg(&fuse_fsync_in::default()), vec![]);
    add(21, &|c| c.arg(&setxattr_in(5)).name("user.name").data(b"value"), vec![]);
    add(22, &|c| c.arg(&fuse_getxattr_in::default()).name("user.name"), bytes(&[321u32, 0]));
    add(23, &|c| c.arg(&fuse_getxattr_in::default()), bytes(&[123u32, 0]));
    add(24, &|c| c.name("user.name"), vec![]);
    add(25, &|c| c.arg(&fuse_flush_in::default()), vec![]);
    add(27, &|c| c.arg(&fuse_open_in::default()), open());
    add(28, &|c| c.arg(&read_in(512)).room(512), readdir());
    add(29, &|c| c.arg(&fuse_release_in::default()), vec![]);
    add(30, &|c| c.arg(&fuse_fsync_in::default()), vec![]);
    add(31, &|c| c.arg(&fuse_lk_in::default()), [bytes(&[1u64, 2]), bytes(&[1u32, 3])].concat());
    add(32, &|c| c.arg(&fuse_lk_in::default()), vec![]);
    add(33, &|c| c.arg(&fuse_lk_in::default()), vec![]);
    add(34, &|c| c.arg(&fuse_access_in::default()), vec![]);
    add(35, &|c| c.arg(&fuse_create_in::default()).name("name"), [entry(), open()].concat());
    add(37, &|c| c.arg(&fuse_bmap_in::default()), bytes(&[77u64]));
    add(39, &|c| c.arg(&ioctl_in(4, 4)).data(b"argh").room(4), ioctl());
    add(40, &|c| c.arg(&fuse_poll_in::default()), bytes(&[5u32, 0]));
    add(43, &|c| c.arg(&fuse_fallocate_in::default()), vec![]);
    add(44, &|c| c.arg(&read_in(512)).room(512), readdirplus());
    add(45, &|c| c.arg(&fuse_rename2_in::default()).name("old").name("new"), vec![]);
    add(46, &|c| c.arg(&fuse_lseek_in::default()), bytes(&[1u64 << 40]));
    add(47, &|c| c.arg(&fuse_copy_file_range_in::default()), bytes(&[4096u32, 0]));
    add(48, &|c| c.arg(&fuse_setupmapping_in::default()), vec![]);
    add(49, &|c| c.arg(&fuse_removemapping_in { count: 2 }).data(&[0; 32]), vec![]);
    add(50, &|c| c.arg(&fuse_syncfs_in::default()), vec![]);
    add(51, &|c| c.arg(&fuse_create_in::default()), [entry(), open()].concat());
    add(52, &|c| c.arg(&fuse_statx_in::default()), statx());
    add(53, &|c| c.arg(&fuse_copy_file_range_in::default()), bytes(&[4096u64]));
    all
}

pub(crate) fn read_in(size: u32) -> fuse_read_in {
    fuse_read_in { size, ..Default::default() }
}

pub(crate) fn write_in(size: u32) -> fuse_write_in {
    fuse_write_in { size, ..Default::default() }
}

pub(crate) fn setxattr_in(size: u32) -> fuse_setxattr_in {
    fuse_setxattr_in { size, ..Default::default() }
}

pub(crate) fn ioctl_in(in_size: u32, out_size: u32) -> fuse_ioctl_in {
    fuse_ioctl_in { in_size, out_size, ..Default::default() }
}

fn bytes<T: IntoBytes + zerocopy::Immutable>(words: &[T]) -> Vec<u8> {
    words.as_bytes().to_vec()
}

/// `fuse_attr`: eight-byte fields first, then four-byte ones.
fn raw_attr() -> Vec<u8> {
    let long = [0x1122_3344_5566_7788u64, 4097, 16, u64::MAX, 2, 3];
    let short = [1u32, 22, 333, 0o100_644, 5, 6, 7, 0x801, 4096, FUSE_ATTR_SUBMOUNT];
    [bytes(&long), bytes(&short)].concat()
}

fn entry() -> Vec<u8> {
    [bytes(&[42u64, 43, 1, 3]), bytes(&[2u32, 4]), raw_attr()].concat()
}

fn attr() -> Vec<u8> {
    [bytes(&[5u64]), bytes(&[6u32, 0]), raw_attr()].concat()
}

fn open() -> Vec<u8> {
    [bytes(&[99u64]), bytes(&[2u32, 0])].concat()
}

fn statfs() -> Vec<u8> {
    [bytes(&[1u64, 2, 3, 4, 5]), bytes(&[6u32, 255, 8, 0]), vec![0; 24]].concat()
}

fn ioctl() -> Vec<u8> {
    [bytes(&[-3i32, 0, 0, 0]), b"argh".to_vec()].concat()
}

fn statx() -> Vec<u8> {
    let time = |sec: i64, nsec: u32| [bytes(&[sec]), bytes(&[nsec, 0])].concat();
    [
        [bytes(&[5u64]), bytes(&[6u32, 0]), vec![0; 16]].concat(),
        [bytes(&[0xfffu32, 4096]), bytes(&[0x10u64]), bytes(&[5u32, 6, 7])].concat(),
        [bytes(&[0o100_644u16, 0]), bytes(&[0x1122_3344_5566_7788u64, 4097, 16, 0x30])].concat(),
        [time(-1, 1), time(4, 4444), time(3, 333), time(2, 22)].concat(),
        [bytes(&[8u32, 1, 0, 0]), vec![0; 112]].concat(),
    ]
    .concat()
}

/// Names are padded to multiples of eight bytes, and not counted so.
fn readdir() -> Vec<u8> {
    [
        [bytes(&[5u64, 1]), bytes(&[1u32, 4]), b".\0\0\0\0\0\0\0".to_vec()].concat(),
        [bytes(&[6u64, 2]), bytes(&[8u32, 8]), b"eight888".to_vec()].concat(),
    ]
    .concat()
}

fn readdirplus() -> Vec<u8> {
    [
        [vec![0; 128], bytes(&[5u64, 1]), bytes(&[2u32, 4]), b"..\0\0\0\0\0\0".to_vec()].concat(),
        [entry(), bytes(&[6u64, 2]), bytes(&[4u32, 8]), b"name\0\0\0\0".to_vec()].concat(),
    ]
    .concat()
}

/// What is a name to [`Name::new`] is one in a request.
pub(crate) fn is_name(name: &std::ffi::CStr) -> bool {
    Name::new(name).is_ok()
}
