//! One struct a request. New fields may come: they are built only by this crate.

use std::ffi::CStr;

use fsrv_transport::mem::{InBuf, OutBuf};
use zerocopy::Unalign;

use super::{DirBuf, DirPlusBuf};
use crate::{
    abi::fuse_removemapping_one,
    name::{LookupName, Name},
    types::{Fh, FileLock, LockOwner, NodeId, Timestamp},
};

/// Declares requests, with and without borrowed arguments.
macro_rules! requests {
    ($( $(#[$doc:meta])* $name:ident $(<$r:lifetime>)? {
        $( $(#[$field_doc:meta])* $field:ident: $type:ty, )*
    } )*) => { $(
        $(#[$doc])*
        #[non_exhaustive]
        pub struct $name $(<$r>)? { $( $(#[$field_doc])* pub $field: $type, )* }
    )* };
}

requests! {
    /// Look a name up.
    Lookup<'r> {
        /// The directory.
        parent: NodeId,
        /// What to look for.
        name: LookupName<'r>,
    }
    /// Read the attributes.
    GetAttr {
        /// The file.
        nodeid: NodeId,
        /// Its handle, when asked by fstat.
        fh: Option<Fh>,
    }
    /// Read the extended attributes of stat.
    GetStatx {
        /// The file.
        nodeid: NodeId,
        /// Its handle, when asked by descriptor.
        fh: Option<Fh>,
        /// STATX bits that are asked for.
        mask: u32,
        /// AT_STATX bits.
        flags: u32,
    }
    /// Change attributes: those that are `Some`.
    SetAttr {
        /// The file.
        nodeid: NodeId,
        /// Its handle, when changed by descriptor.
        fh: Option<Fh>,
        /// Permission bits.
        mode: Option<u32>,
        /// Owner.
        uid: Option<u32>,
        /// Group.
        gid: Option<u32>,
        /// Bytes.
        size: Option<u64>,
        /// Last access.
        atime: Option<SetTime>,
        /// Last change.
        mtime: Option<SetTime>,
        /// Last change of attributes: sent only with the writeback cache.
        ctime: Option<Timestamp>,
        /// Whose lock to respect when truncating.
        lock_owner: Option<LockOwner>,
        /// Clear suid, and sgid of an executable group, with this change.
        kill_suidgid: bool,
    }
    /// Read the target of a symbolic link.
    ReadLink {
        /// The link.
        nodeid: NodeId,
        /// Takes the target.
        out: OutBuf,
    }
    /// Make a symbolic link.
    Symlink<'r> {
        /// The directory.
        parent: NodeId,
        /// The link's name.
        name: Name<'r>,
        /// Where it leads.
        target: &'r CStr,
    }
    /// Make a file that is not a directory or link.
    MkNod<'r> {
        /// The directory.
        parent: NodeId,
        /// The name.
        name: Name<'r>,
        /// File type and permissions, the umask not yet applied.
        mode: u32,
        /// Device number, as [`crate::types::device_parts`] reads it.
        rdev: u32,
        /// The caller's umask.
        umask: u32,
    }
    /// Make a directory.
    MkDir<'r> {
        /// The parent.
        parent: NodeId,
        /// The name.
        name: Name<'r>,
        /// Permissions, the umask not yet applied.
        mode: u32,
        /// The caller's umask.
        umask: u32,
    }
    /// Remove a name that is not a directory.
    Unlink<'r> {
        /// The directory.
        parent: NodeId,
        /// The name.
        name: Name<'r>,
    }
    /// Remove an empty directory.
    RmDir<'r> {
        /// The parent.
        parent: NodeId,
        /// The name.
        name: Name<'r>,
    }
    /// Move a name.
    Rename<'r> {
        /// The directory it is in.
        parent: NodeId,
        /// The name.
        name: Name<'r>,
        /// The directory it goes to.
        new_parent: NodeId,
        /// Its new name.
        new_name: Name<'r>,
        /// RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT.
        flags: u32,
    }
    /// Make another name for a file.
    Link<'r> {
        /// The file.
        nodeid: NodeId,
        /// The directory of the new name.
        new_parent: NodeId,
        /// The new name.
        new_name: Name<'r>,
    }
    /// Open a file.
    Open {
        /// The file.
        nodeid: NodeId,
        /// O_ bits; O_CREAT, O_EXCL and O_NOCTTY are not among them.
        flags: u32,
        /// Clear suid and sgid with the truncation.
        kill_suidgid: bool,
    }
    /// Create a file and open it.
    Create<'r> {
        /// The directory.
        parent: NodeId,
        /// The name.
        name: Name<'r>,
        /// O_ bits.
        flags: u32,
        /// File type and permissions, the umask not yet applied.
        mode: u32,
        /// The caller's umask.
        umask: u32,
        /// Clear suid and sgid with the truncation.
        kill_suidgid: bool,
    }
    /// Create a file without a name and open it.
    TmpFile {
        /// The directory.
        parent: NodeId,
        /// O_ bits.
        flags: u32,
        /// File type and permissions, the umask not yet applied.
        mode: u32,
        /// The caller's umask.
        umask: u32,
    }
    /// Read data.
    Read {
        /// The file.
        nodeid: NodeId,
        /// Its handle.
        fh: Fh,
        /// The first byte.
        offset: u64,
        /// Takes the data; its limit is the size asked for.
        out: OutBuf,
        /// Whose locks count.
        lock_owner: Option<LockOwner>,
        /// The O_ bits of the open file now.
        flags: u32,
    }
    /// Write data.
    Write {
        /// The file.
        nodeid: NodeId,
        /// Its handle.
        fh: Fh,
        /// The first byte.
        offset: u64,
        /// The data.
        data: InBuf,
        /// Whose locks count.
        lock_owner: Option<LockOwner>,
        /// The O_ bits of the open file now.
        flags: u32,
        /// From the client's page cache, so the handle may be any of this file.
        cached: bool,
        /// Clear suid and sgid.
        kill_suidgid: bool,
    }
    /// Ask about the filesystem.
    GetStatFs {
        /// A file on it.
        nodeid: NodeId,
    }
    /// A handle's last reference is gone.
    Release {
        /// The file.
        nodeid: NodeId,
        /// Its handle, invalid from now on.
        fh: Fh,
        /// Its O_ bits.
        flags: u32,
        /// The owner whose flock ends, when it had one.
        flock_owner: Option<LockOwner>,
    }
    /// A descriptor was closed: POSIX locks of `lock_owner` on this file end.
    Flush {
        /// The file.
        nodeid: NodeId,
        /// Its handle.
        fh: Fh,
        /// Whose locks end.
        lock_owner: LockOwner,
    }
    /// Write a file to stable storage.
    Fsync {
        /// The file.
        nodeid: NodeId,
        /// Its handle.
        fh: Fh,
        /// Leave out metadata that is not needed to read the data.
        data_only: bool,
    }
    /// Set an extended attribute.
    SetXattr<'r> {
        /// The file.
        nodeid: NodeId,
        /// The attribute's name.
        name: &'r CStr,
        /// Its value.
        value: &'r [u8],
        /// XATTR_CREATE, XATTR_REPLACE.
        flags: u32,
        /// Clear sgid: an ACL is set by one who is not in the file's group.
        kill_sgid: bool,
    }
    /// Read an extended attribute.
    GetXattr<'r> {
        /// The file.
        nodeid: NodeId,
        /// The attribute's name.
        name: &'r CStr,
        /// Takes the value; `None` when only its size is asked for.
        out: Option<OutBuf>,
    }
    /// List the names of the extended attributes.
    ListXattr {
        /// The file.
        nodeid: NodeId,
        /// Takes the names, each with its NUL; `None` when only their size is asked for.
        out: Option<OutBuf>,
    }
    /// Remove an extended attribute.
    RemoveXattr<'r> {
        /// The file.
        nodeid: NodeId,
        /// The attribute's name.
        name: &'r CStr,
    }
    /// Open a directory.
    OpenDir {
        /// The directory.
        nodeid: NodeId,
        /// O_ bits.
        flags: u32,
    }
    /// Read entries of a directory.
    ReadDir {
        /// The directory.
        nodeid: NodeId,
        /// Its handle.
        fh: Fh,
        /// The offset of the last entry that was read, 0 to begin.
        offset: u64,
        /// Takes the entries.
        entries: DirBuf,
    }
    /// Read entries of a directory and look each up.
    ReadDirPlus {
        /// The directory.
        nodeid: NodeId,
        /// Its handle.
        fh: Fh,
        /// The offset of the last entry that was read, 0 to begin.
        offset: u64,
        /// Takes the entries.
        entries: DirPlusBuf,
    }
    /// A directory handle's last reference is gone.
    ReleaseDir {
        /// The directory.
        nodeid: NodeId,
        /// Its handle, invalid from now on.
        fh: Fh,
    }
    /// Write a directory to stable storage.
    FsyncDir {
        /// The directory.
        nodeid: NodeId,
        /// Its handle.
        fh: Fh,
        /// Leave out metadata.
        data_only: bool,
    }
    /// Ask for a lock that would stand in the way of this one.
    GetLk {
        /// The file.
        nodeid: NodeId,
        /// Its handle.
        fh: Fh,
        /// Who asks.
        owner: LockOwner,
        /// The lock wanted.
        lock: FileLock,
    }
    /// Take, change or drop a lock.
    SetLk {
        /// The file.
        nodeid: NodeId,
        /// Its handle.
        fh: Fh,
        /// Whose.
        owner: LockOwner,
        /// The lock.
        lock: FileLock,
        /// A flock on the whole file, not a POSIX lock.
        flock: bool,
        /// Wait until it can be had (SETLKW).
        wait: bool,
    }
    /// Check permissions: sent only without `default_permissions`.
    Access {
        /// The file.
        nodeid: NodeId,
        /// R_OK, W_OK, X_OK.
        mask: u32,
    }
    /// Map a block of the file to one of the device.
    Bmap {
        /// The file.
        nodeid: NodeId,
        /// The block.
        block: u64,
        /// Its size in bytes.
        block_size: u32,
    }
    /// Device control.
    Ioctl<'r> {
        /// The file.
        nodeid: NodeId,
        /// Its handle.
        fh: Fh,
        /// FUSE_IOCTL bits.
        flags: u32,
        /// The command.
        cmd: u32,
        /// Its argument.
        arg: u64,
        /// What the caller passes in.
        input: &'r [u8],
        /// Takes what it gets.
        out: OutBuf,
    }
    /// Ask which events a file has.
    PollEvents {
        /// The file.
        nodeid: NodeId,
        /// Its handle.
        fh: Fh,
        /// What to name in the notification, when one is asked for.
        notify: Option<u64>,
        /// The events asked for.
        events: u32,
    }
    /// Allocate or free space of a file.
    Fallocate {
        /// The file.
        nodeid: NodeId,
        /// Its handle.
        fh: Fh,
        /// The first byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// FALLOC_FL bits.
        mode: u32,
    }
    /// Find data or a hole.
    Lseek {
        /// The file.
        nodeid: NodeId,
        /// Its handle.
        fh: Fh,
        /// Where to begin.
        offset: u64,
        /// SEEK_DATA or SEEK_HOLE.
        whence: u32,
    }
    /// Copy between two files on the server.
    CopyFileRange {
        /// The source.
        nodeid_in: NodeId,
        /// Its handle.
        fh_in: Fh,
        /// Its first byte.
        offset_in: u64,
        /// The destination.
        nodeid_out: NodeId,
        /// Its handle.
        fh_out: Fh,
        /// Its first byte.
        offset_out: u64,
        /// Bytes.
        len: u64,
        /// None are known.
        flags: u64,
    }
    /// Map part of a file into the client's DAX window.
    SetupMapping {
        /// The file.
        nodeid: NodeId,
        /// Its handle.
        fh: Fh,
        /// The first byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// FUSE_SETUPMAPPING_FLAG bits.
        flags: u64,
        /// Where in the window.
        window_offset: u64,
    }
    /// Unmap parts of the client's DAX window.
    RemoveMapping<'r> {
        /// The file.
        nodeid: NodeId,
        /// Where in the window, and how many bytes.
        parts: &'r [Unalign<fuse_removemapping_one>],
    }
    /// Write a whole filesystem to stable storage.
    SyncFs {
        /// A file on it.
        nodeid: NodeId,
    }
}

/// What a time is set to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The server's clock.
    Now,
    /// This.
    At(Timestamp),
}
