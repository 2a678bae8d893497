//! Directories that were removed while the client knows them.
//!
//! One of them may be a working directory. A handle leads nowhere once nothing holds the inode, so a
//! descriptor does, until the client forgets the directory.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use fsrv::NodeId;

use crate::mutex::lock;

/// A bounded number of them: beyond it a removed directory is ESTALE.
pub(crate) struct Removed {
    dirs: Mutex<HashMap<NodeId, Arc<OwnedFd>>>,
    /// How many there are. Most forgotten files are no removed directories, and need no lock.
    len: AtomicUsize,
    limit: usize,
}

impl Removed {
    pub(crate) fn new(limit: usize) -> Self {
        Self { dirs: Mutex::default(), len: AtomicUsize::new(0), limit }
    }

    pub(crate) fn count(&self) -> u64 {
        self.len.load(Ordering::Relaxed) as u64
    }

    pub(crate) fn insert(&self, nodeid: NodeId, fd: OwnedFd) {
        let mut dirs = self.dirs();
        if dirs.len() < self.limit {
            dirs.insert(nodeid, Arc::new(fd));
            self.len.store(dirs.len(), Ordering::SeqCst);
        }
    }

    pub(crate) fn get(&self, nodeid: NodeId) -> Option<Arc<OwnedFd>> {
        self.dirs().get(&nodeid).cloned()
    }

    pub(crate) fn remove(&self, nodeid: NodeId) {
        if self.len.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut dirs = self.dirs();
        let removed = dirs.remove(&nodeid);
        self.len.store(dirs.len(), Ordering::SeqCst);
        // Its descriptor is closed without the lock: that frees the directory.
        drop(dirs);
        drop(removed);
    }

    pub(crate) fn clear(&self) {
        let dirs = std::mem::take(&mut *self.dirs());
        self.len.store(0, Ordering::SeqCst);
        drop(dirs);
    }

    fn dirs(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<OwnedFd>>> {
        lock(&self.dirs)
    }
}
