//! The plain types of the filesystem trait.

use std::time::Duration;

use crate::abi::{fuse_attr, fuse_entry_out, fuse_file_lock, fuse_kstatfs};

/// Names a file to the client. Never reused while a session lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root directory.
    pub const ROOT: Self = Self(crate::abi::FUSE_ROOT_ID);
}

/// Names an open file or directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fh(pub u64);

/// Names the owner of locks: a process of the client for POSIX locks, an open file for flock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LockOwner(pub u64);

/// A point in time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

/// What stat tells of a file.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Attr {
    /// The inode number.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the content or the attributes.
    pub ctime: Timestamp,
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, as in [`device_number`].
    pub rdev: u32,
    /// The preferred size of I/O, in bytes.
    pub blksize: u32,
    /// Whether another filesystem of the host begins here.
    pub submount: bool,
}

impl Attr {
    /// The bits of `mode` that are the file type.
    pub const TYPE_MASK: u32 = 0o170_000;
    /// The type of a regular file.
    pub const REGULAR: u32 = 0o100_000;
    /// The type of a directory.
    pub const DIRECTORY: u32 = 0o040_000;
    /// The type of a symbolic link.
    pub const SYMLINK: u32 = 0o120_000;

    /// The file type.
    pub fn file_type(&self) -> u32 {
        self.mode & Self::TYPE_MASK
    }

    pub(crate) fn to_abi(self) -> fuse_attr {
        fuse_attr {
            ino: self.ino,
            size: self.size,
            blocks: self.blocks,
            atime: self.atime.sec.cast_unsigned(),
            mtime: self.mtime.sec.cast_unsigned(),
            ctime: self.ctime.sec.cast_unsigned(),
            atimensec: self.atime.nsec,
            mtimensec: self.mtime.nsec,
            ctimensec: self.ctime.nsec,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            blksize: self.blksize,
            flags: if self.submount { crate::abi::FUSE_ATTR_SUBMOUNT } else { 0 },
        }
    }
}

/// A device number as the protocol carries it (`new_encode_dev` of Linux).
pub fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The major and minor number of a device number of the protocol.
pub fn device_parts(number: u32) -> (u32, u32) {
    ((number & 0xf_ff00) >> 8, (number & 0xff) | ((number >> 12) & 0xf_ff00))
}

/// A node given to the client: each one counts as one lookup of its node id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The node.
    pub nodeid: NodeId,
    /// Tells two files apart that have had the same inode number.
    pub generation: u64,
    /// Its attributes.
    pub attr: Attr,
    /// How long the client may believe that the name leads here.
    pub entry_ttl: Duration,
    /// How long the client may believe the attributes.
    pub attr_ttl: Duration,
}

impl Entry {
    /// The name does not exist, and the client may believe that for `ttl`.
    pub fn negative(ttl: Duration) -> Self {
        Self {
            nodeid: NodeId(0),
            generation: 0,
            attr: Attr::default(),
            entry_ttl: ttl,
            attr_ttl: Duration::ZERO,
        }
    }

    pub(crate) fn to_abi(self) -> fuse_entry_out {
        fuse_entry_out {
            nodeid: self.nodeid.0,
            // A root has none: the kernel complains of one.
            generation: if self.nodeid == NodeId::ROOT { 0 } else { self.generation },
            entry_valid: self.entry_ttl.as_secs(),
            attr_valid: self.attr_ttl.as_secs(),
            entry_valid_nsec: self.entry_ttl.subsec_nanos(),
            attr_valid_nsec: self.attr_ttl.subsec_nanos(),
            attr: self.attr.to_abi(),
        }
    }
}

/// Attributes, and how long the client may believe them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// The attributes.
    pub attr: Attr,
    /// How long they hold.
    pub ttl: Duration,
}

/// The answer to STATX.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statx {
    /// The attributes.
    pub attr: Attr,
    /// Creation, where the filesystem records it.
    pub btime: Option<Timestamp>,
    /// STATX_ATTR bits that are set.
    pub attributes: u64,
    /// STATX_ATTR bits that are known.
    pub attributes_mask: u64,
    /// How long this holds.
    pub ttl: Duration,
}

/// An open file or directory given to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Its handle.
    pub fh: Fh,
    /// FOPEN bits, as [`crate::abi`] has them.
    pub flags: u32,
}

/// A new file, open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Created {
    /// The file.
    pub entry: Entry,
    /// Its handle.
    pub opened: Opened,
}

/// What statfs tells.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StatFs {
    /// Blocks of `frsize` bytes in all.
    pub blocks: u64,
    /// Free ones.
    pub bfree: u64,
    /// Free ones for everybody.
    pub bavail: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free ones.
    pub ffree: u64,
    /// The preferred size of I/O, in bytes.
    pub bsize: u32,
    /// The longest name, in bytes.
    pub namelen: u32,
    /// The size of a block, in bytes.
    pub frsize: u32,
}

impl StatFs {
    pub(crate) fn to_abi(self) -> fuse_kstatfs {
        fuse_kstatfs {
            blocks: self.blocks,
            bfree: self.bfree,
            bavail: self.bavail,
            files: self.files,
            ffree: self.ffree,
            bsize: self.bsize,
            namelen: self.namelen,
            frsize: self.frsize,
            ..Default::default()
        }
    }
}

/// What a lock is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
    /// None.
    Unlock,
}

/// A byte-range lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileLock {
    /// The first byte.
    pub start: u64,
    /// The last byte; `i64::MAX` is the end of the file, wherever that is.
    pub end: u64,
    /// What it is.
    pub kind: LockKind,
    /// The process that has it, in the client's numbers.
    pub pid: u32,
}

impl FileLock {
    const F_RDLCK: u32 = 0;
    const F_WRLCK: u32 = 1;
    const F_UNLCK: u32 = 2;

    /// `None` for an unknown kind or an empty range.
    pub(crate) fn from_abi(lock: fuse_file_lock) -> Option<Self> {
        let kind = match lock.r#type {
            Self::F_RDLCK => LockKind::Read,
            Self::F_WRLCK => LockKind::Write,
            Self::F_UNLCK => LockKind::Unlock,
            _ => return None,
        };
        let end = lock.end.min(i64::MAX.cast_unsigned());
        (lock.start <= end).then_some(Self { start: lock.start, end, kind, pid: lock.pid })
    }

    pub(crate) fn to_abi(self) -> fuse_file_lock {
        let r#type = match self.kind {
            LockKind::Read => Self::F_RDLCK,
            LockKind::Write => Self::F_WRLCK,
            LockKind::Unlock => Self::F_UNLCK,
        };
        fuse_file_lock { start: self.start, end: self.end, r#type, pid: self.pid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_wire() {
        for (major, minor) in [(0, 0), (8, 1), (259, 70_000), (4095, 1_048_575)] {
            assert_eq!(device_parts(device_number(major, minor)), (major, minor));
        }
    }
}
