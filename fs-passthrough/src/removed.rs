//! Removing names, and what was removed while the client knows it.
//!
//! It may be a working directory, or open by a descriptor that we do not know of (O_PATH, a FIFO). A
//! handle leads nowhere once nothing holds the inode, so a descriptor does, until the client forgets it.

use std::{
    collections::HashMap,
    ffi::CStr,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use fsrv::{Attr, NodeId};

use crate::{inode::Inode, mutex::lock, shared::Shared, sys::stat::Stat};

/// Freeing a file of so many blocks of 512 bytes takes longer than going to another thread.
pub(crate) const LONG_TO_FREE: u64 = (16 << 20) / 512;

/// A file that is about to lose a name, seen once: for what becomes of it, and for how long that takes.
#[derive(Default)]
pub(crate) struct Leaving {
    /// Known to the client and soon without a name: to be held for it.
    known: Option<(NodeId, OwnedFd)>,
    blocks: u64,
}

impl Leaving {
    /// Whether freeing it takes long.
    pub(crate) fn is_long_to_free(&self) -> bool {
        self.blocks > LONG_TO_FREE
    }
}

impl Shared {
    /// Looks at the child `name` of `dir`, which is about to be removed. Whoever waits for another machine does so
    /// anyway, and is not asked.
    pub(crate) fn leaving(&self, dir: &Inode, name: &CStr) -> Leaving {
        if dir.mount.has_handles() {
            return self.leaving_by_handle(dir, name).unwrap_or_default();
        }
        if dir.mount.is_remote() {
            return Leaving::default();
        }
        // Whoever knows it holds it by a descriptor.
        let blocks = self.dir_fd(dir).and_then(|fd| Stat::blocks_at(fd, name));
        Leaving { known: None, blocks: blocks.unwrap_or_default() }
    }

    fn leaving_by_handle(&self, dir: &Inode, name: &CStr) -> Option<Leaving> {
        let found = self.find(dir, name).ok()?;
        let attr = found.stat.attr;
        let is_last = attr.file_type() == Attr::DIRECTORY || attr.nlink == 1;
        let leaving = Leaving { known: None, blocks: if is_last { attr.blocks } else { 0 } };
        // The space of a large file is better free than the file known to a bare O_PATH.
        if !is_last || leaving.is_long_to_free() {
            return Some(leaving);
        }
        let nodeid = self.inodes.unpinned(&found);
        Some(Leaving { known: nodeid.map(|nodeid| (nodeid, found.fd)), ..leaving })
    }

    /// Runs `remove`, which takes the name of `leaving`, and holds for the client what then has none.
    pub(crate) fn remove<T>(
        &self,
        leaving: Leaving,
        remove: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let result = remove()?;
        if let Some((nodeid, fd)) = leaving.known {
            self.removed.insert(nodeid, fd);
            if self.inodes.get(nodeid).is_none() {
                // It was forgotten meanwhile.
                self.removed.remove(nodeid);
            }
        }
        Ok(result)
    }
}

/// A bounded number of descriptors: beyond it a removed file is ESTALE.
pub(crate) struct Removed {
    files: Mutex<HashMap<NodeId, Arc<OwnedFd>>>,
    /// How many there are. Most forgotten files were not removed, and need no lock.
    len: AtomicUsize,
    limit: usize,
}

impl Removed {
    pub(crate) fn new(limit: usize) -> Self {
        Self { files: Mutex::default(), len: AtomicUsize::new(0), limit }
    }

    pub(crate) fn count(&self) -> u64 {
        self.len.load(Ordering::Relaxed) as u64
    }

    pub(crate) fn insert(&self, nodeid: NodeId, fd: OwnedFd) {
        let mut files = self.files();
        if files.len() < self.limit {
            files.insert(nodeid, Arc::new(fd));
            self.len.store(files.len(), Ordering::SeqCst);
        }
    }

    pub(crate) fn get(&self, nodeid: NodeId) -> Option<Arc<OwnedFd>> {
        self.files().get(&nodeid).cloned()
    }

    pub(crate) fn remove(&self, nodeid: NodeId) {
        if self.len.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut files = self.files();
        let removed = files.remove(&nodeid);
        self.len.store(files.len(), Ordering::SeqCst);
        // Its descriptor is closed without the lock: that frees the file.
        drop(files);
        drop(removed);
    }

    pub(crate) fn clear(&self) {
        let files = std::mem::take(&mut *self.files());
        self.len.store(0, Ordering::SeqCst);
        drop(files);
    }

    fn files(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<OwnedFd>>> {
        lock(&self.files)
    }
}
