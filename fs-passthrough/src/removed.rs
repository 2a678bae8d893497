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
use fsrv_transport::io::LONG_TO_FREE;

use crate::{
    descriptors::{Held, Share},
    inode::Inode,
    mutex::lock,
    shared::Shared,
    sys::{open, stat::Stat},
};

/// A file that is about to lose a name, seen once: for what becomes of it.
#[derive(Default)]
pub(crate) struct Leaving {
    /// Known to the client and soon without a name: to be held for it.
    known: Option<(NodeId, OwnedFd)>,
    /// What keeps a large one until it is closed aside: without it, taking the name would free the file, and hold up
    /// all who look something up in its directory.
    large: Option<Held>,
}

impl Shared {
    /// Looks at the child `name` of `dir`, which is about to be removed; `None` when too many large ones wait to be
    /// closed. Whoever waits for another machine does so anyway, and is not asked.
    pub(crate) fn leaving(&self, dir: &Inode, name: &CStr) -> Option<Leaving> {
        if dir.mount.has_handles() {
            return self.leaving_by_handle(dir, name);
        }
        if dir.mount.is_remote() {
            return Some(Leaving::default());
        }
        // Whoever knows it holds it by a descriptor.
        let blocks =
            self.dir_fd(dir).and_then(|dir| Stat::blocks_at(dir, name)).unwrap_or_default();
        if !is_large(blocks) {
            return Some(Leaving::default());
        }
        let fd = self.dir_fd(dir).and_then(|dir| open::find(dir, name));
        fd.map_or_else(|_| Some(Leaving::default()), |fd| self.leaving_large(fd, blocks))
    }

    fn leaving_by_handle(&self, dir: &Inode, name: &CStr) -> Option<Leaving> {
        let Ok(found) = self.find(dir, name) else { return Some(Leaving::default()) };
        let attr = found.stat.attr;
        let is_last = attr.file_type() == Attr::DIRECTORY || attr.nlink == 1;
        if !is_last {
            return Some(Leaving::default());
        }
        // The space of a large file is better free than the file known to a bare O_PATH.
        if is_large(attr.blocks) && !dir.mount.is_remote() {
            return self.leaving_large(found.fd, attr.blocks);
        }
        let nodeid = self.inodes.unpinned(&found).filter(|_| dir.mount.is_open_to_all());
        Some(Leaving { known: nodeid.map(|nodeid| (nodeid, found.fd)), large: None })
    }

    fn leaving_large(&self, fd: OwnedFd, blocks: u64) -> Option<Leaving> {
        let held = Held::new(fd, self.descriptors.take(Share::Closing)?);
        held.saw_blocks(blocks);
        Some(Leaving { known: None, large: Some(held) })
    }

    /// Runs `remove`, which takes the name of `leaving`, and holds for the client what then has none.
    pub(crate) fn remove<T>(
        &self,
        leaving: Leaving,
        remove: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let Leaving { known, large } = leaving;
        let result = remove();
        drop(large);
        let result = result?;
        if let Some((nodeid, fd)) = known
            && let Some(slot) = self.descriptors.take(Share::Removed)
        {
            self.removed.insert(nodeid, Held::new(fd, slot));
            if self.inodes.get(nodeid).is_none() {
                // It was forgotten meanwhile.
                self.removed.remove(nodeid);
            }
        }
        Ok(result)
    }
}

/// What was removed; when there are no more descriptors for it, a removed file is ESTALE.
#[derive(Default)]
pub(crate) struct Removed {
    files: Mutex<HashMap<NodeId, Arc<Held>>>,
    /// How many there are. Most forgotten files were not removed, and need no lock.
    len: AtomicUsize,
}

impl Removed {
    pub(crate) fn insert(&self, nodeid: NodeId, fd: Held) {
        let mut files = self.files();
        let former = files.insert(nodeid, Arc::new(fd));
        self.len.store(files.len(), Ordering::SeqCst);
        drop(files);
        drop(former);
    }

    pub(crate) fn get(&self, nodeid: NodeId) -> Option<Arc<Held>> {
        if self.len.load(Ordering::SeqCst) == 0 {
            return None;
        }
        self.files().get(&nodeid).cloned()
    }

    /// Notes that closing it frees much.
    pub(crate) fn is_large(&self, nodeid: NodeId) {
        if let Some(fd) = self.get(nodeid) {
            fd.saw_blocks(u64::MAX);
        }
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

    fn files(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<Held>>> {
        lock(&self.files)
    }
}

fn is_large(blocks: u64) -> bool {
    blocks > LONG_TO_FREE / 512
}
