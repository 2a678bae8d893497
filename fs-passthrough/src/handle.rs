//! The files and directories that the client has open.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use fsrv::Fh;
use fsrv_transport::io::{Closer, File, LONG_TO_FREE};
use rustix::fs::OFlags;

use crate::{descriptors::Slot, inode::Inode, mutex::lock, ops::dir::Position};

/// An open file or directory.
pub(crate) struct Handle {
    pub(crate) inode: Arc<Inode>,
    pub(crate) file: File,
    /// Where reading a directory stands; a file's is not used.
    pub(crate) position: Mutex<Position>,
    writes: bool,
    _slot: Slot,
}

impl Handle {
    /// Whether closing it frees a large file. Whatever else holds the file is told how large it is.
    pub(crate) fn frees_much(&self) -> bool {
        let Ok(stat) = rustix::fs::fstat(&self.file) else { return false };
        let blocks = stat.st_blocks.cast_unsigned();
        self.inode.saw_blocks(blocks);
        stat.st_nlink == 0 && blocks > LONG_TO_FREE / 512
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.writes {
            self.inode.remove_writer();
        }
    }
}

const SHARDS: usize = 16;

/// All open files and directories.
#[derive(Default)]
pub(crate) struct Handles {
    shards: [Mutex<HashMap<u64, Arc<Handle>>>; SHARDS],
    next: AtomicU64,
    open: AtomicU64,
}

impl Handles {
    /// Adds `file`, which was opened with `flags`.
    pub(crate) fn insert(&self, inode: Arc<Inode>, file: File, flags: OFlags, slot: Slot) -> Fh {
        let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        if writes {
            inode.add_writer();
        }
        let fh = Fh(self.next.fetch_add(1, Ordering::Relaxed));
        let position = Mutex::default();
        let handle = Arc::new(Handle { inode, file, position, writes, _slot: slot });
        self.shard(fh).insert(fh.0, handle);
        self.open.fetch_add(1, Ordering::Relaxed);
        fh
    }

    pub(crate) fn get(&self, fh: Fh) -> Option<Arc<Handle>> {
        self.shard(fh).get(&fh.0).cloned()
    }

    pub(crate) fn remove(&self, fh: Fh) -> Option<Arc<Handle>> {
        let removed = self.shard(fh).remove(&fh.0);
        self.open.fetch_sub(removed.is_some().into(), Ordering::Relaxed);
        removed
    }

    /// Closes all, and gives those that free much to `closer`.
    pub(crate) fn clear(&self, closer: &Closer) {
        for shard in &self.shards {
            let cleared = std::mem::take(&mut *lock(shard));
            self.open.fetch_sub(cleared.len() as u64, Ordering::Relaxed);
            let waits = |handle: &Arc<Handle>| handle.inode.mount.is_remote();
            let large = |handle: &Arc<Handle>| !waits(handle) && handle.frees_much();
            cleared.into_values().filter(large).for_each(|handle| closer.close(handle));
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    fn shard(&self, fh: Fh) -> MutexGuard<'_, HashMap<u64, Arc<Handle>>> {
        lock(&self.shards[fh.0 as usize % SHARDS])
    }
}
