//! How each reply is written, and what it grants.

use fsrv_transport::mem::Filled;

use super::{DirBuf, DirPlusBuf, args::Fixed};
use crate::{
    abi::*,
    types::{Attributes, Created, Entry, Fh, FileLock, NodeId, Opened, StatFs, Statx, Timestamp},
};

/// The answer to GETXATTR and LISTXATTR.
pub enum Xattr {
    /// How many bytes the value has.
    Size(u32),
    /// The value.
    Value(Filled),
}

/// The answer to IOCTL.
pub struct Ioctled {
    /// What ioctl returns.
    pub result: i32,
    /// What the caller gets.
    pub data: Filled,
}

/// The answer to BMAP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped(
    /// The block of the device.
    pub u64,
);

/// A reply ready for the wire, and what to take back when the client does not get it.
pub(crate) struct Answer {
    pub(crate) fixed: Fixed,
    pub(crate) data: Option<Filled>,
    pub(crate) grant: Grant,
}

/// What a reply gives to a client that receives it.
#[derive(Debug)]
pub(crate) enum Grant {
    Nothing,
    Lookup(NodeId),
    Lookups(Vec<NodeId>),
    /// A handle, on the node that was asked for.
    Handle(Fh),
    /// A directory handle, on the node that was asked for.
    DirHandle(Fh),
    /// A new file and its handle.
    Created(NodeId, Fh),
}

/// Writes a reply.
pub(crate) trait Encode {
    fn encode(self) -> Answer;
}

fn fixed<T: zerocopy::IntoBytes + zerocopy::Immutable>(value: &T) -> Answer {
    Answer { fixed: Fixed::new(value), data: None, grant: Grant::Nothing }
}

fn data(data: Filled) -> Answer {
    Answer { fixed: Fixed::empty(), data: Some(data), grant: Grant::Nothing }
}

impl Encode for () {
    fn encode(self) -> Answer {
        Answer { fixed: Fixed::empty(), data: None, grant: Grant::Nothing }
    }
}

impl Encode for fuse_init_out {
    fn encode(self) -> Answer {
        fixed(&self)
    }
}

impl Encode for Entry {
    fn encode(self) -> Answer {
        let grant = if self.nodeid.0 == 0 { Grant::Nothing } else { Grant::Lookup(self.nodeid) };
        Answer { grant, ..fixed(&self.to_abi()) }
    }
}

impl Encode for Attributes {
    fn encode(self) -> Answer {
        fixed(&fuse_attr_out {
            attr_valid: self.ttl.as_secs(),
            attr_valid_nsec: self.ttl.subsec_nanos(),
            dummy: 0,
            attr: self.attr.to_abi(),
        })
    }
}

impl Encode for Statx {
    fn encode(self) -> Answer {
        const STATX_BASIC_STATS: u32 = 0x7ff;
        const STATX_BTIME: u32 = 0x800;
        let attr = self.attr;
        let (rdev_major, rdev_minor) = crate::types::device_parts(attr.rdev);
        let btime_mask = if self.btime.is_some() { STATX_BTIME } else { 0 };
        let stat = fuse_statx {
            mask: STATX_BASIC_STATS | btime_mask,
            blksize: attr.blksize,
            attributes: self.attributes,
            attributes_mask: self.attributes_mask,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            // The sixteen bits of st_mode.
            mode: attr.mode as u16,
            ino: attr.ino,
            size: attr.size,
            blocks: attr.blocks,
            atime: sx_time(attr.atime),
            btime: sx_time(self.btime.unwrap_or_default()),
            ctime: sx_time(attr.ctime),
            mtime: sx_time(attr.mtime),
            rdev_major,
            rdev_minor,
            ..Default::default()
        };
        fixed(&fuse_statx_out {
            attr_valid: self.ttl.as_secs(),
            attr_valid_nsec: self.ttl.subsec_nanos(),
            stat,
            ..Default::default()
        })
    }
}

fn sx_time(time: Timestamp) -> fuse_sx_time {
    fuse_sx_time { tv_sec: time.sec, tv_nsec: time.nsec, __reserved: 0 }
}

impl Encode for Opened {
    fn encode(self) -> Answer {
        Answer { grant: Grant::Handle(self.fh), ..fixed(&open_out(self)) }
    }
}

/// A directory that was opened: its handle goes back by RELEASEDIR.
pub(super) struct OpenedDir(pub(super) Opened);

impl Encode for OpenedDir {
    fn encode(self) -> Answer {
        Answer { grant: Grant::DirHandle(self.0.fh), ..self.0.encode() }
    }
}

impl From<Opened> for OpenedDir {
    fn from(opened: Opened) -> Self {
        Self(opened)
    }
}

impl Encode for Created {
    fn encode(self) -> Answer {
        let Self { entry, opened } = self;
        let out = fuse_create_out { entry: entry.to_abi(), open: open_out(opened) };
        Answer { grant: Grant::Created(entry.nodeid, opened.fh), ..fixed(&out) }
    }
}

fn open_out(opened: Opened) -> fuse_open_out {
    fuse_open_out { fh: opened.fh.0, open_flags: opened.flags, backing_id: 0 }
}

impl Encode for Filled {
    fn encode(self) -> Answer {
        data(self)
    }
}

impl Encode for DirBuf {
    fn encode(self) -> Answer {
        data(self.finish())
    }
}

impl Encode for DirPlusBuf {
    fn encode(self) -> Answer {
        let (filled, granted) = self.finish();
        Answer { grant: Grant::Lookups(granted), ..data(filled) }
    }
}

/// Bytes written.
impl Encode for u32 {
    fn encode(self) -> Answer {
        fixed(&fuse_write_out { size: self, padding: 0 })
    }
}

/// An offset, or bytes copied: both are one 64-bit number, whose low half is what the 32-bit form of
/// COPY_FILE_RANGE reads.
impl Encode for u64 {
    fn encode(self) -> Answer {
        fixed(&fuse_lseek_out { offset: self })
    }
}

impl Encode for StatFs {
    fn encode(self) -> Answer {
        fixed(&self.to_abi())
    }
}

impl Encode for Xattr {
    fn encode(self) -> Answer {
        match self {
            Self::Size(size) => fixed(&fuse_getxattr_out { size, padding: 0 }),
            Self::Value(value) => data(value),
        }
    }
}

impl Encode for FileLock {
    fn encode(self) -> Answer {
        fixed(&fuse_lk_out { lk: self.to_abi() })
    }
}

impl Encode for Mapped {
    fn encode(self) -> Answer {
        fixed(&fuse_bmap_out { block: self.0 })
    }
}

impl Encode for Ioctled {
    fn encode(self) -> Answer {
        let out = fuse_ioctl_out { result: self.result, ..Default::default() };
        Answer { data: Some(self.data), ..fixed(&out) }
    }
}

/// Events of POLL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Events(
    /// EPOLL bits.
    pub u32,
);

impl Encode for Events {
    fn encode(self) -> Answer {
        fixed(&fuse_poll_out { revents: self.0, padding: 0 })
    }
}
