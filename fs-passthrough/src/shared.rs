//! What all operations share, and the way from a node id to a descriptor.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use fsrv::{Attr, Attributes, Entry, Errno, Fh, NodeId, Result};
use fsrv_transport::io::File;
use rustix::fs::{CWD, Mode, OFlags};

use crate::{
    config::{Config, InodeFileHandles, Timeouts},
    dircache::DirCache,
    handle::{Handle, Handles},
    inode::{Found, Inode, Inodes},
    locks::LockTable,
    mount::{self, Mount, Mounts},
    mutex::lock,
    prune::Pruner,
    removed::Removed,
    suid::has_suid,
    sys::{open, stat::Stat},
};

/// Descriptors that are kept for what is not a known file or an open one.
const SPARE_DESCRIPTORS: u64 = 64;

/// The most descriptors of directories kept open.
const DIR_CACHE_MAX: u64 = 1024;

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// `--inode-file-handles mandatory`, and they are not to be had.
    #[error(
        "file handles cannot be used for this directory (they need CAP_DAC_READ_SEARCH, and a \
         filesystem that has them); serve it with --inode-file-handles prefer or never"
    )]
    NoFileHandles(#[source] io::Error),
    /// /proc is needed to open files that are held by descriptors.
    #[error("cannot open /proc/self/fd; mount /proc first")]
    NoProc(#[source] io::Error),
    /// The directory itself cannot be read.
    #[error("cannot read the shared directory")]
    Root(#[source] io::Error),
}

/// What all operations share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) timeouts: Timeouts,
    pub(crate) mounts: Mounts,
    pub(crate) inodes: Inodes,
    pub(crate) handles: Handles,
    pub(crate) locks: LockTable,
    /// Of the client that is there now.
    pub(crate) pruner: Mutex<Option<Pruner>>,
    /// The client may ask for files that it has forgotten.
    pub(crate) is_exported: AtomicBool,
    dirs: DirCache,
    pub(crate) removed: Removed,
    /// How many descriptors the client may make us hold.
    room: u64,
    proc_fd: OwnedFd,
}

/// An O_PATH descriptor of a known file.
pub(crate) enum PathFd<'i> {
    Own(BorrowedFd<'i>),
    Cached(Arc<OwnedFd>),
    Opened(OwnedFd),
}

impl AsFd for PathFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(fd) => fd.as_fd(),
            Self::Cached(fd) => fd.as_fd(),
            Self::Opened(fd) => fd.as_fd(),
        }
    }
}

impl Shared {
    pub(crate) fn new(root: OwnedFd, config: Config) -> std::result::Result<Self, SetupError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc_fd = rustix::fs::openat(CWD, c"/proc/self/fd", flags, Mode::empty())
            .map_err(|error| SetupError::NoProc(error.into()))?;
        let stat = Stat::of(&root).map_err(SetupError::Root)?;
        if config.inode_file_handles == InodeFileHandles::Mandatory {
            mount::by_handle(&root, &stat).map_err(SetupError::NoFileHandles)?;
        }
        let mounts = Mounts::new(config.inode_file_handles);
        let mount = mounts.of(&root, &stat, None);
        let handle = mount.handle_of(&root);
        let found = Found { fd: root, stat, mount, handle };
        let spare = SPARE_DESCRIPTORS.min(config.max_descriptors / 4);
        let dir_cache = (config.max_descriptors / 8).clamp(16, DIR_CACHE_MAX);
        Ok(Self {
            timeouts: config.timeouts(),
            mounts,
            inodes: Inodes::new(found),
            handles: Handles::default(),
            locks: LockTable::new(),
            pruner: Mutex::default(),
            is_exported: AtomicBool::new(false),
            dirs: DirCache::new(dir_cache as usize),
            removed: Removed::new(dir_cache as usize),
            room: config.max_descriptors.saturating_sub(spare),
            proc_fd,
            config,
        })
    }

    /// The file that the client calls `nodeid`.
    ///
    /// # Errors
    /// ESTALE when it is unknown: the client then looks the name up again.
    pub(crate) fn inode(&self, nodeid: NodeId) -> Result<Arc<Inode>> {
        self.inodes.get(nodeid).ok_or(Errno::ESTALE)
    }

    /// The open file `fh`, which must be of `nodeid`.
    ///
    /// # Errors
    /// EBADF when it is not open.
    pub(crate) fn handle(&self, nodeid: NodeId, fh: Fh) -> Result<Arc<Handle>> {
        self.handles.get(fh).filter(|handle| handle.inode.nodeid == nodeid).ok_or(Errno::EBADF)
    }

    /// A descriptor to look at `inode` with.
    pub(crate) fn path_fd<'i>(&self, inode: &'i Inode) -> io::Result<PathFd<'i>> {
        if let Some(fd) = inode.own_fd() {
            return Ok(PathFd::Own(fd));
        }
        if let Some(fd) = self.dirs.get(inode.nodeid) {
            return Ok(PathFd::Cached(fd));
        }
        match inode.open_by_handle(OFlags::PATH) {
            Ok(fd) if inode.is_dir() => {
                let fd = Arc::new(fd);
                self.dirs.insert(inode.nodeid, fd.clone());
                Ok(PathFd::Cached(fd))
            }
            Ok(fd) => Ok(PathFd::Opened(fd)),
            Err(error) => self.removed.get(inode.nodeid).map(PathFd::Cached).ok_or(error),
        }
    }

    /// A descriptor of the directory `inode`.
    pub(crate) fn dir_fd<'i>(&self, inode: &'i Inode) -> io::Result<PathFd<'i>> {
        if inode.is_dir() {
            self.path_fd(inode)
        } else {
            Err(io::Error::from_raw_os_error(libc::ENOTDIR))
        }
    }

    /// Opens `inode`, which must be a regular file or a directory: nothing else is ever opened.
    pub(crate) fn open(&self, inode: &Inode, flags: OFlags) -> io::Result<OwnedFd> {
        if !inode.is_regular() && !inode.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        match inode.own_fd() {
            Some(fd) => open::again(&self.proc_fd, fd, flags),
            None => inode.open_by_handle(flags),
        }
    }

    /// Looks at the child `name` of `dir`.
    pub(crate) fn find(&self, dir: &Inode, name: &std::ffi::CStr) -> io::Result<Found> {
        let fd = open::find(self.dir_fd(dir)?, name)?;
        self.identify(fd, &dir.mount)
    }

    /// As [`Shared::find`], without any waiting; `None` when that does not tell.
    pub(crate) fn find_cached(
        &self,
        dir: &Inode,
        name: &std::ffi::CStr,
    ) -> Option<io::Result<Found>> {
        if dir.mount.is_remote() || !dir.is_dir() {
            return None;
        }
        let found = match dir.own_fd() {
            Some(fd) => open::find_cached(fd, name),
            None => open::find_cached(self.dirs.get(dir.nodeid)?, name),
        };
        Some(found?.and_then(|fd| self.identify(fd, &dir.mount)))
    }

    /// Looks at the file of `fd`, which is probably on the mount `near`.
    pub(crate) fn identify(&self, fd: OwnedFd, near: &Arc<Mount>) -> io::Result<Found> {
        let stat = Stat::of(&fd)?;
        let mount = self.mounts.of(&fd, &stat, Some(near));
        let handle = mount.handle_of(&fd);
        let found = Found { fd, stat, mount, handle };
        if found.handle.is_none() {
            self.check_descriptors(&found)?;
        }
        Ok(found)
    }

    /// Gives a file to the client.
    pub(crate) fn enter(&self, found: Found) -> Entry {
        self.enter_as(found, None)
    }

    pub(crate) fn enter_as(&self, found: Found, nodeid: Option<NodeId>) -> Entry {
        let attr = self.shown(found.stat.attr);
        let inode = self.inodes.enter(found, nodeid);
        if has_suid(&attr) {
            inode.set_suid();
        }
        Entry {
            nodeid: inode.nodeid,
            generation: inode.generation,
            attr,
            entry_ttl: self.timeouts.entry,
            attr_ttl: self.timeouts.of(&attr),
        }
    }

    pub(crate) fn attributes(&self, inode: &Inode, stat: &Stat) -> Attributes {
        inode.saw(stat);
        let attr = self.shown(stat.attr);
        Attributes { attr, ttl: self.timeouts.of(&attr) }
    }

    /// What the client gets to see of a file's attributes.
    fn shown(&self, attr: Attr) -> Attr {
        if !self.config.writeback || attr.file_type() != Attr::REGULAR {
            return attr;
        }
        // The client may have data for it that no block was allocated for, and programs (`tar --sparse`) take a file
        // without blocks for a hole without looking.
        Attr { blocks: attr.blocks.max(1), ..attr }
    }

    /// Takes lookups back, and closes what was open for a file that is no longer known.
    pub(crate) fn forget(&self, nodeid: NodeId, count: u64) {
        let remember = self.is_exported.load(std::sync::atomic::Ordering::Relaxed);
        if self.inodes.forget(nodeid, count, remember) {
            self.dirs.remove(nodeid);
            self.removed.remove(nodeid);
        }
    }

    /// Forgets the client.
    pub(crate) fn clear(&self) {
        self.handles.clear();
        self.locks.clear();
        self.inodes.clear();
        self.dirs.clear();
        self.removed.clear();
    }

    /// An O_PATH descriptor of the file that `fd` has open.
    pub(crate) fn path_of(&self, fd: impl AsFd) -> io::Result<OwnedFd> {
        open::again(&self.proc_fd, fd, OFlags::PATH)
    }

    /// `/proc/self/fd`.
    pub(crate) fn proc_fd(&self) -> &OwnedFd {
        &self.proc_fd
    }

    /// Wraps an open descriptor of `inode` for file operations.
    pub(crate) fn file(&self, fd: OwnedFd, inode: &Inode) -> io::Result<File> {
        File::new(fd, inode.mount.cost(fsrv::op::Opcode::Write).clone())
    }

    /// Whether there is room for another open file. The last descriptors are needed to answer for those
    /// that are open.
    ///
    /// # Errors
    /// ENFILE.
    pub(crate) fn check_room(&self) -> Result<()> {
        let cached = if self.inodes.root().mount.has_handles() { self.dirs.size() } else { 0 };
        if self.held_descriptors() + cached < self.room { Ok(()) } else { Err(Errno::ENFILE) }
    }

    fn held_descriptors(&self) -> u64 {
        self.inodes.held_by_fd_count() + self.handles.count() + self.removed.count()
    }

    /// Running out of descriptors is the client's ENFILE, before it is the server's trouble. Near the
    /// limit the client is asked to forget what it does not use.
    fn check_descriptors(&self, found: &Found) -> io::Result<()> {
        let held = self.held_descriptors();
        // Known files do not take the last descriptors: they must be open to be of use.
        let limit = self.room / 16 * 15;
        if held >= limit / 8 * 7
            && let Some(pruner) = &*lock(&self.pruner)
        {
            pruner.wake();
        }
        if held >= limit && !self.inodes.knows(found) {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        Ok(())
    }
}
