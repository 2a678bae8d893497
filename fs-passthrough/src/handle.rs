//! The files and directories that the client has open.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use fsrv::Fh;
use fsrv_transport::io::File;
use rustix::fs::OFlags;

use crate::{inode::Inode, mutex::lock, ops::dir::Position, removed::LONG_TO_FREE};

/// An open file or directory.
pub(crate) struct Handle {
    pub(crate) inode: Arc<Inode>,
    pub(crate) file: File,
    /// Where reading a directory stands; a file's is not used.
    pub(crate) position: Mutex<Position>,
    writes: bool,
}

impl Handle {
    /// Whether closing it frees a large file.
    pub(crate) fn frees_much(&self) -> bool {
        rustix::fs::fstat(&self.file)
            .is_ok_and(|stat| stat.st_nlink == 0 && stat.st_blocks.cast_unsigned() > LONG_TO_FREE)
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
    pub(crate) fn insert(&self, inode: Arc<Inode>, file: File, flags: OFlags) -> Fh {
        let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        if writes {
            inode.add_writer();
        }
        let fh = Fh(self.next.fetch_add(1, Ordering::Relaxed));
        let handle = Arc::new(Handle { inode, file, position: Mutex::default(), writes });
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

    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let cleared = std::mem::take(&mut *lock(shard));
            self.open.fetch_sub(cleared.len() as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    fn shard(&self, fh: Fh) -> MutexGuard<'_, HashMap<u64, Arc<Handle>>> {
        lock(&self.shards[fh.0 as usize % SHARDS])
    }
}
