//! The host's mounts that the shared tree reaches into.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, OnceLock, Weak},
};

use fsrv::op::Opcode;
use fsrv_transport::io::{Cost, HostMount};
use rustix::fs::OFlags;

use crate::{
    config::InodeFileHandles,
    mutex::lock,
    remote::Remote,
    reserve::Reserve,
    sys::{handle::FileHandle, open, stat::Stat},
};

/// One mount of the host.
pub(crate) struct Mount {
    /// The kernel's unique number.
    pub(crate) id: u64,
    /// An open directory of it, by which handles are opened; `None` where files are held by
    /// descriptors. It is found out when the first file is looked at, because that asks the filesystem.
    by_handle: OnceLock<Option<OwnedFd>>,
    /// What is waited for, where calls may wait for another machine or process.
    remote: Option<Remote>,
    /// Whether going to its root asks nobody.
    is_open_to_all: bool,
    pub(crate) reserve: Reserve,
    costs: [Arc<Cost>; OPERATIONS],
}

/// Codes of operations are below this.
const OPERATIONS: usize = 64;

/// Operations that take long on any filesystem.
const LONG: [Opcode; 2] = [Opcode::SyncFs, Opcode::CopyFileRange];

impl Mount {
    fn new(id: u64, fd: impl AsFd, handles: InodeFileHandles) -> Self {
        let host = HostMount::of(&fd);
        let is_remote = host.may_wait();
        let by_handle = OnceLock::new();
        // A FUSE server may know a file by its handle only as long as the kernel has it cached.
        if handles == InodeFileHandles::Never
            || handles == InodeFileHandles::Prefer && host.is_fuse()
        {
            let _was_empty = by_handle.set(None);
        }
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
        let reserve = if is_remote { Reserve::none() } else { Reserve::of(&fd) };
        let remote = is_remote.then(|| Remote::new(host.point().cloned()));
        // The kernel asks network filesystems whether a root is still what it was.
        let is_open_to_all = !is_remote || host.is_fuse();
        Self { id, by_handle, remote, is_open_to_all, reserve, costs }
    }

    /// Whether a call may wait for another machine or process.
    pub(crate) fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// What calls wait for, where they may wait for another machine or process.
    pub(crate) fn remote(&self) -> Option<&Remote> {
        self.remote.as_ref()
    }

    /// Whether going to its root asks nobody.
    pub(crate) fn is_open_to_all(&self) -> bool {
        self.is_open_to_all
    }

    /// Whether [`Mount::handle_of`] asks nobody.
    pub(crate) fn has_settled(&self) -> bool {
        self.by_handle.get().is_some()
    }

    /// Whether files of this mount are held by handles.
    pub(crate) fn has_handles(&self) -> bool {
        matches!(self.by_handle.get(), Some(Some(_)))
    }

    /// What `opcode` costs here.
    pub(crate) fn cost(&self, opcode: Opcode) -> &Arc<Cost> {
        &self.costs[opcode as usize % OPERATIONS]
    }

    /// Opens a file of this mount by its handle.
    pub(crate) fn open(&self, handle: &FileHandle, flags: OFlags) -> io::Result<OwnedFd> {
        let Some(Some(fd)) = self.by_handle.get() else { return Err(stale()) };
        open::by_handle(fd, handle, flags)
    }

    /// The handle of `fd`, where files of this mount are held so.
    pub(crate) fn handle_of(&self, fd: impl AsFd, stat: &Stat) -> Option<FileHandle> {
        let by_handle = self.by_handle.get_or_init(|| by_handle(&fd, stat).ok());
        by_handle.as_ref().and_then(|_| FileHandle::of(fd).ok())
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

    /// The mount of number `id`, which `fd` is on. `near` is a likely one. Nobody is asked.
    pub(crate) fn of(&self, fd: impl AsFd, id: u64, near: Option<&Arc<Mount>>) -> Arc<Mount> {
        if let Some(near) = near.filter(|near| near.id == id) {
            return near.clone();
        }
        if let Some(mount) = self.known(id) {
            return mount;
        }
        let mount = Arc::new(Mount::new(id, &fd, self.handles));
        let mut known = lock(&self.known);
        if let Some(mount) = known.get(&id).and_then(Weak::upgrade) {
            return mount;
        }
        known.retain(|_, mount| mount.strong_count() > 0);
        known.insert(id, Arc::downgrade(&mount));
        mount
    }

    fn known(&self, id: u64) -> Option<Arc<Mount>> {
        lock(&self.known).get(&id).and_then(Weak::upgrade)
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

fn stale() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}
