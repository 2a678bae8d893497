//! The filesystem: one file with an image's content.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fsrv::{
    Attr, Attributes, Context, Entry, Errno, FileSystem, Init, LookupName, NameBuf, NodeId, Opened,
    Result, Stats,
    abi::{
        FOPEN_DIRECT_IO, FOPEN_PARALLEL_DIRECT_WRITES, FUSE_ATOMIC_O_TRUNC,
        FUSE_DIRECT_IO_ALLOW_MMAP,
    },
    op::*,
    types::{Created, Fh, StatFs},
};
use fsrv_transport::mem::Filled;

use crate::{
    attributes::Owner,
    disk::{Disk, Zeroing},
};

/// How long a client may believe attributes. Only it changes them.
const TTL: Duration = Duration::from_secs(1);

/// The file, where it is not the root itself.
const FILE: NodeId = NodeId(2);

const DT_DIR: u8 = 4;
const DT_REG: u8 = 8;

const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const ZERO_RANGE: u32 = 16;

const O_ACCMODE: u32 = 3;

/// Where the file is.
#[derive(Clone, Debug)]
pub enum Place {
    /// It is the root: for a mount point that is a file.
    Root,
    /// The only name in the root directory: virtual machines want a directory.
    InDirectory(Box<NameBuf>),
}

/// What a client may do with the file.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it is.
    pub place: Place,
    /// Whether a write past the end makes it longer.
    pub growable: bool,
    /// Whether users other than its owner reach it, so that it makes sense to give them permissions.
    pub allow_other: bool,
    /// Mode and owner.
    pub owner: Owner,
}

/// A filesystem with one file, the content of an image.
pub struct BlockImage {
    disk: Arc<Disk>,
    config: Config,
    owner: Mutex<Owner>,
    lookups: AtomicU64,
}

impl BlockImage {
    /// The file with the content of `disk`.
    pub fn new(disk: Arc<Disk>, config: Config) -> Self {
        let owner = Mutex::new(config.owner);
        Self { disk, config, owner, lookups: AtomicU64::new(0) }
    }

    /// An error unless `nodeid` is the file.
    fn file(&self, nodeid: NodeId) -> Result<()> {
        match (&self.config.place, nodeid) {
            (Place::Root, NodeId::ROOT) | (Place::InDirectory(_), FILE) => Ok(()),
            (Place::InDirectory(_), NodeId::ROOT) => Err(Errno::EISDIR),
            _ => Err(Errno::ESTALE),
        }
    }

    /// The same for what changes its content.
    fn writable(&self, nodeid: NodeId) -> Result<()> {
        self.file(nodeid)?;
        if self.disk.is_writable() { Ok(()) } else { Err(Errno::EACCES) }
    }

    fn owner(&self) -> std::sync::MutexGuard<'_, Owner> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attr(&self, nodeid: NodeId) -> Result<Attr> {
        let owner = *self.owner();
        match self.file(nodeid) {
            Err(Errno::EISDIR) => {
                let Owner { uid, gid, .. } = owner;
                Ok(Attr {
                    ino: nodeid.0,
                    mode: Attr::DIRECTORY | 0o555,
                    uid,
                    gid,
                    nlink: 2,
                    ..Attr::default()
                })
            }
            Err(error) => Err(error),
            Ok(()) => {
                let stat = self.disk.stat().await.map_err(failed)?;
                Ok(Attr {
                    ino: nodeid.0,
                    size: self.disk.len(),
                    blocks: stat.allocated.div_ceil(512),
                    blksize: self.disk.alignment(),
                    atime: stat.atime,
                    mtime: stat.mtime,
                    ctime: stat.ctime,
                    ..owner.attr()
                })
            }
        }
    }

    async fn attributes(&self, nodeid: NodeId) -> Result<Attributes> {
        Ok(Attributes { attr: self.attr(nodeid).await?, ttl: TTL })
    }

    async fn entry(&self) -> Result<Entry> {
        let attr = self.attr(FILE).await?;
        self.lookups.fetch_add(1, Ordering::Relaxed);
        Ok(Entry { nodeid: FILE, generation: 0, attr, entry_ttl: TTL, attr_ttl: TTL })
    }

    async fn flush_all(&self) -> Result<()> {
        self.disk.flush().await.map_err(failed)
    }

    /// Whether `len` bytes at `offset` are, or come to be, inside the file at least in part.
    async fn make_room(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset
            .checked_add(len)
            .filter(|&end| i64::try_from(end).is_ok())
            .ok_or(Errno::EFBIG)?;
        if end <= self.disk.len() {
            Ok(())
        } else if self.config.growable {
            self.disk.grow(end, false).await.map_err(failed)
        } else if offset < self.disk.len() {
            Ok(())
        } else {
            Err(Errno::ENOSPC)
        }
    }
}

impl FileSystem for BlockImage {
    fn init(&self, init: &mut Init) {
        // With the open itself comes O_TRUNC, and is ignored there: `cp` and the shell's `>` write over a disk, they do
        // not make it empty.
        init.want(FUSE_DIRECT_IO_ALLOW_MMAP | FUSE_ATOMIC_O_TRUNC);
    }

    fn destroy(&self) {
        self.lookups.store(0, Ordering::Relaxed);
    }

    fn forget(&self, nodeid: NodeId, nlookup: u64) {
        if nodeid == FILE {
            // A broken client may forget more than it looked up.
            let less = |lookups: u64| Some(lookups.saturating_sub(nlookup));
            let _ = self.lookups.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    fn stats(&self) -> Stats {
        let lookups = self.lookups.load(Ordering::Relaxed);
        Stats { inodes: 1 + u64::from(lookups > 0), lookups, ..Stats::default() }
    }

    async fn lookup(&self, _: &Context, op: Lookup<'_>) -> Result<Entry> {
        match (&self.config.place, op.name) {
            (Place::InDirectory(own), LookupName::Name(name))
                if op.parent == NodeId::ROOT && name == own.as_name() =>
            {
                self.entry().await
            }
            _ => Err(Errno::ENOENT),
        }
    }

    async fn getattr(&self, _: &Context, op: GetAttr) -> Result<Attributes> {
        self.attributes(op.nodeid).await
    }

    async fn setattr(&self, _: &Context, op: SetAttr) -> Result<Attributes> {
        self.file(op.nodeid)
            .map_err(|error| if error == Errno::EISDIR { Errno::EPERM } else { error })?;
        let changed =
            self.owner().changed(&op, self.config.allow_other, self.disk.is_writable())?;
        if let Some(size) = op.size {
            self.writable(op.nodeid)?;
            i64::try_from(size).map_err(|_| Errno::EFBIG)?;
            self.disk.set_len(size).await.map_err(failed)?;
        }
        *self.owner() = changed;
        self.attributes(op.nodeid).await
    }

    async fn open(&self, _: &Context, op: Open) -> Result<Opened> {
        self.file(op.nodeid)?;
        if op.flags & O_ACCMODE != 0 {
            self.writable(op.nodeid)?;
        }
        Ok(Opened { fh: Fh(0), flags: FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES })
    }

    async fn release(&self, _: &Context, _: Release) -> Result<()> {
        Ok(())
    }

    async fn read(&self, _: &Context, op: Read) -> Result<Filled> {
        self.file(op.nodeid)?;
        self.disk.read(op.out, op.offset).await.map_err(failed)
    }

    async fn write(&self, _: &Context, op: Write) -> Result<u32> {
        self.writable(op.nodeid)?;
        self.make_room(op.offset, op.data.len() as u64).await?;
        match self.disk.write(op.data, op.offset).await.map_err(failed)? {
            // Somebody made the file shorter meanwhile.
            0 => Err(Errno::ENOSPC),
            written => u32::try_from(written).map_err(|_| Errno::EOVERFLOW),
        }
    }

    async fn flush(&self, _: &Context, op: Flush) -> Result<()> {
        self.file(op.nodeid)?;
        self.flush_all().await
    }

    async fn fsync(&self, _: &Context, op: Fsync) -> Result<()> {
        self.file(op.nodeid)?;
        self.flush_all().await
    }

    async fn fsyncdir(&self, _: &Context, _: FsyncDir) -> Result<()> {
        self.flush_all().await
    }

    async fn syncfs(&self, _: &Context, _: SyncFs) -> Result<()> {
        self.flush_all().await
    }

    /// The modes of QEMU's export. One that gives space does so only at the end.
    async fn fallocate(&self, _: &Context, op: Fallocate) -> Result<()> {
        self.writable(op.nodeid)?;
        let end = op
            .offset
            .checked_add(op.length)
            .filter(|&end| i64::try_from(end).is_ok())
            .ok_or(Errno::EFBIG)?;
        let len = self.disk.len();
        match op.mode {
            0 if op.offset < len => Err(Errno::EOPNOTSUPP),
            0 => self.disk.grow(end, true).await.map_err(failed),
            mode if mode == PUNCH_HOLE | KEEP_SIZE => {
                self.disk.zero(op.offset, op.length, Zeroing::Free).await.map_err(failed)
            }
            mode if mode & !KEEP_SIZE == ZERO_RANGE => {
                if mode & KEEP_SIZE == 0 && end > len {
                    self.disk.grow(end, false).await.map_err(failed)?;
                }
                self.disk.zero(op.offset, op.length, Zeroing::Keep).await.map_err(failed)
            }
            PUNCH_HOLE => Err(Errno::EINVAL),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    async fn lseek(&self, _: &Context, op: Lseek) -> Result<u64> {
        self.file(op.nodeid)?;
        let len = self.disk.len();
        match op.whence {
            SEEK_HOLE if op.offset == len => Ok(len),
            SEEK_DATA | SEEK_HOLE if op.offset >= len => Err(Errno::ENXIO),
            SEEK_DATA => self.disk.next_data(op.offset).await.map_err(failed)?.ok_or(Errno::ENXIO),
            SEEK_HOLE => self.disk.next_hole(op.offset).await.map_err(failed),
            _ => Err(Errno::EINVAL),
        }
    }

    async fn statfs(&self, _: &Context, _: GetStatFs) -> Result<StatFs> {
        const BLOCK: u32 = 512;
        let blocks = self.disk.len().div_ceil(BLOCK.into());
        let allocated = self.disk.stat().await.map_err(failed)?.allocated;
        let bfree = blocks.saturating_sub(allocated.div_ceil(BLOCK.into()));
        Ok(StatFs {
            blocks,
            bfree,
            bavail: bfree,
            files: 1,
            bsize: BLOCK,
            frsize: BLOCK,
            namelen: fsrv::NAME_MAX as u32,
            ..StatFs::default()
        })
    }

    async fn readdir(&self, _: &Context, mut op: ReadDir) -> Result<DirBuf> {
        let Place::InDirectory(name) = &self.config.place else { return Err(Errno::ENOTDIR) };
        if op.nodeid != NodeId::ROOT {
            return Err(Errno::ENOTDIR);
        }
        let entries: [(NodeId, u8, &[u8]); 3] = [
            (NodeId::ROOT, DT_DIR, b"."),
            (NodeId::ROOT, DT_DIR, b".."),
            (FILE, DT_REG, name.as_name().as_bytes()),
        ];
        let first = usize::try_from(op.offset).unwrap_or(usize::MAX);
        for (index, (nodeid, kind, name)) in entries.into_iter().enumerate().skip(first) {
            if op.entries.push(nodeid.0, index as u64 + 1, kind, name).is_err() {
                if op.entries.is_empty() {
                    return Err(Errno::EINVAL);
                }
                break;
            }
        }
        Ok(op.entries)
    }

    async fn create(&self, _: &Context, _: Create<'_>) -> Result<Created> {
        Err(Errno::EPERM)
    }

    async fn mknod(&self, _: &Context, _: MkNod<'_>) -> Result<Entry> {
        Err(Errno::EPERM)
    }

    async fn mkdir(&self, _: &Context, _: MkDir<'_>) -> Result<Entry> {
        Err(Errno::EPERM)
    }

    async fn symlink(&self, _: &Context, _: Symlink<'_>) -> Result<Entry> {
        Err(Errno::EPERM)
    }

    async fn link(&self, _: &Context, _: Link<'_>) -> Result<Entry> {
        Err(Errno::EPERM)
    }

    async fn unlink(&self, _: &Context, _: Unlink<'_>) -> Result<()> {
        Err(Errno::EPERM)
    }

    async fn rmdir(&self, _: &Context, _: RmDir<'_>) -> Result<()> {
        Err(Errno::EPERM)
    }

    async fn rename(&self, _: &Context, _: Rename<'_>) -> Result<()> {
        Err(Errno::EPERM)
    }
}

/// The client's error for the image's, which is told to whoever runs the server when it is not the client's affair.
fn failed(error: io::Error) -> Errno {
    if error.raw_os_error().unwrap_or(libc::EIO) == libc::EIO {
        tracing::error!("the image cannot be used: {error}");
    }
    error.into()
}
