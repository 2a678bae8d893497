//! The host's mounts that the shared tree reaches into.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, Weak},
};

use fsrv::op::Opcode;
use fsrv_transport::io::{Cost, may_wait};
use rustix::fs::OFlags;

use crate::{
    config::InodeFileHandles,
    mutex::lock,
    reserve::Reserve,
    sys::{handle::FileHandle, open, stat::Stat},
};

/// One mount of the host.
pub(crate) struct Mount {
    /// The kernel's unique number.
    pub(crate) id: u64,
    /// An open directory of it, by which handles are opened; `None` where files are held by
    /// descriptors.
    by_handle: Option<OwnedFd>,
    /// A call may wait for another machine or process.
    is_remote: bool,
    pub(crate) reserve: Reserve,
    costs: [Arc<Cost>; OPERATIONS],
}

/// Codes of operations are below this.
const OPERATIONS: usize = 64;

/// Operations that take long on any filesystem.
const LONG: [Opcode; 2] = [Opcode::SyncFs, Opcode::CopyFileRange];

impl Mount {
    fn new(id: u64, by_handle: Option<OwnedFd>, is_remote: bool, reserve: Reserve) -> Self {
        let costs = std::array::from_fn(|code| {
            let is = |opcode: Opcode| opcode as usize == code;
            Arc::new(if is_remote || LONG.into_iter().any(is) {
                Cost::waits()
            } else if is(Opcode::Write) {
                Cost::quick_writes()
            } else {
                Cost::quick()
            })
        });
        Self { id, by_handle, is_remote, reserve, costs }
    }

    /// Whether a call may wait for another machine or process.
    pub(crate) fn is_remote(&self) -> bool {
        self.is_remote
    }

    /// Whether files of this mount are held by handles.
    pub(crate) fn has_handles(&self) -> bool {
        self.by_handle.is_some()
    }

    /// What `opcode` costs here.
    pub(crate) fn cost(&self, opcode: Opcode) -> &Arc<Cost> {
        &self.costs[opcode as usize % OPERATIONS]
    }

    /// Opens a file of this mount by its handle.
    pub(crate) fn open(&self, handle: &FileHandle, flags: OFlags) -> io::Result<OwnedFd> {
        let Some(fd) = &self.by_handle else { return Err(stale()) };
        open::by_handle(fd, handle, flags)
    }

    /// The handle of `fd`, where files of this mount are held so.
    pub(crate) fn handle_of(&self, fd: impl AsFd) -> Option<FileHandle> {
        self.by_handle.as_ref().and_then(|_| FileHandle::of(fd).ok())
    }
}

/// The mounts met so far, while files of them are known.
pub(crate) struct Mounts {
    handles: InodeFileHandles,
    known: Mutex<HashMap<u64, Weak<Mount>>>,
}

impl Mounts {
    pub(crate) fn new(handles: InodeFileHandles) -> Self {
        Self { handles, known: Mutex::default() }
    }

    /// The mount of the file `stat` is of, which `fd` refers to. `near` is a likely one.
    pub(crate) fn of(&self, fd: impl AsFd, stat: &Stat, near: Option<&Arc<Mount>>) -> Arc<Mount> {
        if let Some(near) = near.filter(|near| near.id == stat.mount) {
            return near.clone();
        }
        let mut known = lock(&self.known);
        if let Some(mount) = known.get(&stat.mount).and_then(Weak::upgrade) {
            return mount;
        }
        let by_handle = match self.handles {
            InodeFileHandles::Never => None,
            // A FUSE server may know a file by its handle only as long as the kernel has it cached.
            InodeFileHandles::Prefer if is_fuse(&fd) => None,
            InodeFileHandles::Prefer | InodeFileHandles::Mandatory => by_handle(&fd, stat).ok(),
        };
        let is_remote = may_wait(&fd);
        let reserve = if is_remote { Reserve::none() } else { Reserve::of(&fd) };
        let mount = Arc::new(Mount::new(stat.mount, by_handle, is_remote, reserve));
        known.retain(|_, mount| mount.strong_count() > 0);
        known.insert(stat.mount, Arc::downgrade(&mount));
        mount
    }
}

/// A descriptor that opens handles of the mount of `fd`, proved by opening `fd` itself.
///
/// # Errors
/// ENOTDIR when `fd` is a mount of a single file, EOPNOTSUPP and EPERM as the kernel says.
pub(crate) fn by_handle(fd: impl AsFd, stat: &Stat) -> io::Result<OwnedFd> {
    if stat.attr.file_type() != fsrv::Attr::DIRECTORY {
        return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mount = rustix::fs::openat(&fd, c".", flags, rustix::fs::Mode::empty())?;
    FileHandle::of(&fd)?.open(&mount, OFlags::PATH)?;
    Ok(mount)
}

fn is_fuse(fd: impl AsFd) -> bool {
    const FUSE: u64 = 0x6573_5546;
    // One that does not tell is a FUSE server without statfs.
    rustix::fs::fstatfs(fd).map_or(true, |stat| stat.f_type as u64 == FUSE)
}

fn stale() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}
