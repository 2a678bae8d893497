//! What all operations share, and the way from a node id to a descriptor.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use fsrv::{Attr, Attributes, Entry, Errno, Fh, NodeId, Result};
use fsrv_transport::io::File;
use rustix::fs::{CWD, Mode, OFlags};

use crate::{
    config::{Config, InodeFileHandles, Timeouts},
    crossings::Crossings,
    descriptors::{Descriptors, Held, Share, Slot},
    dircache::DirCache,
    handle::{Handle, Handles},
    inode::{Found, Inode, Inodes},
    locks::LockTable,
    mount::{self, Mount, Mounts},
    mutex::lock,
    prune::Pruner,
    remote::Remote,
    removed::Removed,
    suid::has_suid,
    sys::{open, required, stat::Stat},
};

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
    /// A system call that every request takes.
    #[error(
        "the system call {call} is refused here, as a seccomp profile does that is older than it; allow it in the \
         container's profile, which newer container runtimes do"
    )]
    Refused {
        /// Its name.
        call: &'static str,
        /// What it answered.
        source: io::Error,
    },
    /// The directory itself cannot be read.
    #[error("cannot read the shared directory")]
    Root(#[source] io::Error),
}

/// What all operations share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) timeouts: Timeouts,
    pub(crate) mounts: Mounts,
    pub(crate) crossings: Crossings,
    /// What is behind mount points that were not met yet.
    pub(crate) unknown: Remote,
    pub(crate) inodes: Inodes,
    pub(crate) handles: Handles,
    pub(crate) locks: Arc<LockTable>,
    /// Of the client that is there now.
    pub(crate) pruner: Mutex<Option<Pruner>>,
    /// The client may ask for files that it has forgotten.
    pub(crate) is_exported: AtomicBool,
    dirs: DirCache,
    pub(crate) removed: Removed,
    pub(crate) descriptors: Arc<Descriptors>,
    proc_fd: OwnedFd,
}

/// What is mounted at a mount point, as the kernel knows it.
pub(crate) struct Crossed {
    fd: OwnedFd,
    stat: Stat,
    pub(crate) mount: Arc<Mount>,
}

/// Whether attributes are those of the filesystem, or what the kernel remembers of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fresh {
    Yes,
    No,
}

/// An O_PATH descriptor of a known file.
pub(crate) enum PathFd<'i> {
    Own(BorrowedFd<'i>),
    Cached(Arc<OwnedFd>),
    Removed(Arc<Held>),
    Opened(OwnedFd),
}

impl AsFd for PathFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(fd) => fd.as_fd(),
            Self::Cached(fd) => fd.as_fd(),
            Self::Removed(fd) => fd.as_fd(),
            Self::Opened(fd) => fd.as_fd(),
        }
    }
}

impl Shared {
    pub(crate) fn new(root: OwnedFd, config: Config) -> std::result::Result<Self, SetupError> {
        if let Some((call, source)) = required::refused(&root) {
            return Err(SetupError::Refused { call, source });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc_fd = rustix::fs::openat(CWD, c"/proc/self/fd", flags, Mode::empty())
            .map_err(|error| SetupError::NoProc(error.into()))?;
        let stat = Stat::of(&root).map_err(SetupError::Root)?;
        if config.inode_file_handles == InodeFileHandles::Mandatory {
            mount::by_handle(&root, &stat).map_err(SetupError::NoFileHandles)?;
        }
        let mounts = Mounts::new(config.inode_file_handles);
        let mount = mounts.of(&root, stat.mount, None);
        let handle = mount.handle_of(&root, &stat);
        let found = Found { fd: root, stat, mount, handle, is_stale: false };
        let has_dirs = config.inode_file_handles != InodeFileHandles::Never;
        let descriptors = Descriptors::new(config.max_descriptors, has_dirs);
        Ok(Self {
            timeouts: config.timeouts(),
            mounts,
            crossings: Crossings::default(),
            unknown: Remote::new(None),
            inodes: Inodes::new(found, descriptors.clone()),
            handles: Handles::default(),
            locks: Arc::new(LockTable::new()),
            pruner: Mutex::default(),
            is_exported: AtomicBool::new(false),
            dirs: DirCache::new(descriptors.dirs()),
            removed: Removed::default(),
            descriptors,
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
            // What is cached is closed by a worker, and that of another machine is not.
            Ok(fd) if inode.is_dir() && inode.mount.is_open_to_all() => {
                let fd = Arc::new(fd);
                self.dirs.insert(inode.nodeid, fd.clone());
                if self.inodes.get(inode.nodeid).is_none() {
                    // It was forgotten meanwhile.
                    self.dirs.remove(inode.nodeid);
                }
                Ok(PathFd::Cached(fd))
            }
            Ok(fd) => Ok(PathFd::Opened(fd)),
            Err(error) => self.removed.get(inode.nodeid).map(PathFd::Removed).ok_or(error),
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
    ///
    /// # Errors
    /// EXDEV when it is a mount point.
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

    /// Looks at the file of `fd`, which is on the mount `near` or on a local one.
    pub(crate) fn identify(&self, fd: OwnedFd, near: &Arc<Mount>) -> io::Result<Found> {
        let stat = Stat::of(&fd)?;
        let mount = self.mounts.of(&fd, stat.mount, Some(near));
        self.found(fd, stat, mount, Fresh::Yes)
    }

    /// Goes to what is mounted at `name` in `dir`. Only the kernel is asked about it.
    pub(crate) fn cross(&self, dir: &Inode, name: &std::ffi::CStr) -> io::Result<Crossed> {
        let fd = open::find_across(self.dir_fd(dir)?, name)?;
        let stat = Stat::in_memory(&fd)?;
        let mount = self.mounts.of(&fd, stat.mount, Some(&dir.mount));
        Ok(Crossed { fd, stat, mount })
    }

    /// What [`Shared::cross`] came to. Where it is remote, it is asked for its handles, once.
    pub(crate) fn crossed(&self, crossed: Crossed) -> io::Result<Found> {
        let Crossed { fd, stat, mount } = crossed;
        let fresh = if mount.is_remote() { Fresh::No } else { Fresh::Yes };
        self.found(fd, stat, mount, fresh)
    }

    fn found(&self, fd: OwnedFd, stat: Stat, mount: Arc<Mount>, fresh: Fresh) -> io::Result<Found> {
        let handle = mount.handle_of(&fd, &stat);
        let found = Found { fd, stat, mount, handle, is_stale: fresh == Fresh::No };
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
        // Whoever wants to know more asks, and waits for the answer.
        let attr_ttl = if found.is_stale { Duration::ZERO } else { self.timeouts.of(&attr) };
        let inode = self.inodes.enter(found, nodeid);
        inode.saw_blocks(attr.blocks);
        if has_suid(&attr) {
            inode.set_suid();
        }
        Entry {
            nodeid: inode.nodeid,
            generation: inode.generation,
            attr,
            entry_ttl: self.timeouts.entry,
            attr_ttl,
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
        self.clear_locks();
        self.removed.clear();
        // Of what else holds a file, these tell whether it is a large one.
        self.handles.clear(self.descriptors.closer());
        self.inodes.clear();
        self.dirs.clear();
        self.crossings.clear();
    }

    fn clear_locks(&self) {
        for nodeid in self.locks.nodes() {
            let inode = self.inodes.get(nodeid);
            let remote = match &inode {
                Some(inode) => inode.mount.remote(),
                // It was forgotten before its last handle was closed, and nobody knows where it was.
                None => Some(&self.unknown),
            };
            let locks = self.locks.clone();
            match remote {
                None => locks.clear(nodeid),
                Some(remote) => remote.later(move || locks.clear(nodeid)),
            }
        }
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
        let cost = inode.mount.cost(fsrv::op::Opcode::Write).clone();
        match inode.mount.remote() {
            None => Ok(File::new(fd, cost)?.waiting_for(self.descriptors.closer().clone())),
            Some(remote) => File::remote(fd, cost, remote.pool().clone()),
        }
    }

    /// A place for another open file. The last descriptors are needed to answer for those that are open.
    ///
    /// # Errors
    /// ENFILE.
    pub(crate) fn place_to_open(&self) -> Result<Slot> {
        self.descriptors.take(Share::Open).ok_or(Errno::ENFILE)
    }

    /// Running out of descriptors is the client's ENFILE, before it is the server's trouble. Near the
    /// limit the client is asked to forget what it does not use.
    fn check_descriptors(&self, found: &Found) -> io::Result<()> {
        if self.descriptors.is_nearly_full()
            && let Some(pruner) = &*lock(&self.pruner)
        {
            pruner.wake();
        }
        if !self.descriptors.has_room_for(Share::Known) && !self.inodes.knows(found) {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_forgotten_meanwhile_is_not_kept_open() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let shared = Shared::new(root.into(), Config::default()).unwrap();
        let found = shared.find(shared.inodes.root(), c"sub").unwrap();
        let nodeid = shared.enter(found).nodeid;
        // As a request has it that another worker serves.
        let sub = shared.inode(nodeid).unwrap();

        shared.forget(nodeid, 1);

        shared.path_fd(&sub).unwrap();
        assert!(shared.dirs.get(nodeid).is_none());
    }
}
