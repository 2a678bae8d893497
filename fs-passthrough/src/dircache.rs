//! A bounded cache of O_PATH descriptors of directories.
//!
//! Every lookup starts at a directory, and opening that by its handle costs more than the lookup.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard},
};

use fsrv::NodeId;

use crate::mutex::lock;

/// Each node id has one place. Two that share one evict each other.
pub(crate) struct DirCache {
    places: Box<[Mutex<Place>]>,
}

type Place = Option<(NodeId, Arc<OwnedFd>)>;

impl DirCache {
    /// A cache of at most `size` descriptors.
    pub(crate) fn new(size: usize) -> Self {
        Self { places: (0..size.max(1)).map(|_| Mutex::default()).collect() }
    }

    pub(crate) fn get(&self, nodeid: NodeId) -> Option<Arc<OwnedFd>> {
        self.place(nodeid)
            .as_ref()
            .filter(|(cached, _)| *cached == nodeid)
            .map(|(_, fd)| fd.clone())
    }

    pub(crate) fn insert(&self, nodeid: NodeId, fd: Arc<OwnedFd>) {
        let evicted = self.place(nodeid).replace((nodeid, fd));
        // Its descriptor is closed here, without the lock.
        drop(evicted);
    }

    pub(crate) fn remove(&self, nodeid: NodeId) {
        let removed = self.place(nodeid).take_if(|(cached, _)| *cached == nodeid);
        drop(removed);
    }

    pub(crate) fn clear(&self) {
        for place in &self.places {
            let removed = lock(place).take();
            drop(removed);
        }
    }

    fn place(&self, nodeid: NodeId) -> MutexGuard<'_, Place> {
        let index = nodeid.0 as usize % self.places.len();
        lock(&self.places[index])
    }
}
