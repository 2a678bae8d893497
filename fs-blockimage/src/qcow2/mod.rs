//! A qcow2 image: imago keeps its map, the host's files have its data.
//!
//! What goes where is imago's part; data then goes between the client's memory and the file without it. What imago
//! writes of header and tables waits in [`Metadata`] until a commit.

mod bitmaps;
mod commit;
mod compressed;
mod features;
mod give_back;
mod given_up;
mod header;
mod imago;
mod known;
mod layer;
mod layout;
mod metadata;
mod open;
mod ownership;
mod read;
mod refcounts;
mod references;
mod resize;
mod snapshots;
mod write;
mod zero;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ::imago::{FormatAccess, format::drivers::PreparedDataMapping};
use tokio::sync::{Mutex, RwLock, Semaphore};

use self::imago::Handle;
pub(crate) use self::{header::MAGIC, metadata::Metadata};
use crate::{
    disk::{self, Stat},
    joined::Joined,
    storage::HostFile,
};

/// Clusters that are decompressed at once, at the most. Each takes memory for three clusters.
const DECOMPRESSING: usize = 16;

/// Bytes of metadata that wait in memory for a commit, about at the most.
const PENDING_MAX: usize = 32 << 20;

/// Bytes that were freed and wait for a commit before they are given back to the host, about at the most.
const FREED_MAX: u64 = 64 << 20;

/// A qcow2 image.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    format: FormatAccess<Handle>,
    metadata: Arc<Metadata>,
    /// The file of the data, where it is another.
    data: Option<Arc<HostFile>>,
    version: u32,
    /// Whether that file reads as the content does.
    is_raw: bool,
    /// Whether nothing in the image says any more what the next change makes wrong.
    is_touched: AtomicBool,
    /// Bytes in the backing file, as clients would see it.
    backing_len: u64,
    alignment: u32,
    flushes: Joined,
    /// One change of length after the other. Taken before `allocating`.
    resizing: Mutex<()>,
    /// Whoever may change the map. Taken before `access`.
    allocating: Mutex<Changes>,
    /// Shared by those who use what they found in the map. All of it is taken to wait for them, and to write to a part
    /// of a block past O_DIRECT.
    access: RwLock<()>,
    decompressing: Semaphore,
}

/// What has changed since the last commit.
#[derive(Debug, Default)]
struct Changes {
    /// Whether the map has.
    is_any: bool,
    /// Bytes that were freed, about.
    freed: u64,
    /// Whether the map in memory may be wrong: nothing of it may reach the file any more.
    is_broken: bool,
}

impl Qcow2 {
    pub(crate) fn len(&self) -> u64 {
        self.metadata.len()
    }

    /// What offsets and lengths of requests should be multiples of.
    pub(crate) fn alignment(&self) -> u32 {
        self.alignment
    }

    pub(crate) async fn stat(&self) -> io::Result<Stat> {
        let mut stat = self.metadata.file().stat().await?;
        if let Some(data) = &self.data {
            stat.allocated += data.stat().await?.allocated;
        }
        Ok(stat)
    }

    pub(crate) async fn flush(&self) -> io::Result<()> {
        self.flushes.join(async || self.flush_now().await).await
    }

    async fn flush_now(&self) -> io::Result<()> {
        let mut changes = self.allocating.lock().await;
        if changes.is_any || self.metadata.pending_bytes() > 0 || changes.is_broken {
            return self.commit(&mut changes).await;
        }
        drop(changes);
        if let Some(data) = &self.data {
            data.sync().await?;
        }
        self.metadata.file().sync().await
    }

    /// Makes everything durable. Nobody who holds a part of `access` may call this.
    async fn commit(&self, changes: &mut Changes) -> io::Result<()> {
        if changes.is_broken {
            return Err(io::Error::other("its metadata could not be read before; serve it again"));
        }
        self.format.flush().await?;
        if self.metadata.freed() {
            // Whoever found what is free now in the map is to be done with it before others get it.
            drop(self.access.write().await);
        }
        self.metadata.commit(self.data.as_deref()).await?;
        changes.is_any = false;
        changes.freed = 0;
        Ok(())
    }

    /// Runs `change`, which may change the map, alone among such.
    async fn changing<T>(&self, change: impl AsyncFnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut changes = self.allocating.lock().await;
        if self.metadata.freed() || changes.is_broken {
            // What was freed must not be used again without a commit.
            self.commit(&mut changes).await?;
        }
        let result = self.noting(&mut changes, change).await;
        self.settle(&mut changes).await?;
        result
    }

    /// The same for what frees clusters, and allocates none. Returns how many bytes it changed.
    async fn freeing(&self, change: impl AsyncFnOnce() -> io::Result<u64>) -> io::Result<u64> {
        let mut changes = self.allocating.lock().await;
        if changes.is_broken {
            self.commit(&mut changes).await?;
        }
        let result = self.noting(&mut changes, change).await;
        if self.metadata.freed() {
            changes.freed += result.as_ref().unwrap_or(&0);
        }
        self.settle(&mut changes).await?;
        result
    }

    /// After a change: what waits for a commit is not to become too much.
    async fn settle(&self, changes: &mut Changes) -> io::Result<()> {
        let is_much = changes.freed > FREED_MAX || self.metadata.pending_bytes() > PENDING_MAX;
        if is_much || self.metadata.has_abandoned() { self.commit(changes).await } else { Ok(()) }
    }

    /// A place for data, which the map shows when it is committed. The caller is alone among those who change the map.
    async fn prepare(&self, at: u64, len: u64) -> io::Result<PreparedDataMapping<'_, Handle>> {
        self.metadata.is_allocating(true);
        let prepared = self.format.prepare_data_mapping(at, len, true).await;
        self.metadata.is_allocating(false);
        prepared
    }

    /// Runs `change`, and notes whether the map in memory can be trusted after it.
    async fn noting<T>(
        &self,
        changes: &mut Changes,
        change: impl AsyncFnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let failures = self.metadata.failures();
        changes.is_any = true;
        let result = change().await;
        changes.is_broken = self.metadata.failures() != failures && result.is_err();
        result
    }

    /// Before a change of the content: what the image says about it that does not hold after that is taken back first.
    async fn touch(&self) -> io::Result<()> {
        if self.is_touched.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut changes = self.allocating.lock().await;
        if !self.is_touched.load(Ordering::Acquire) {
            self.metadata.drop_claims().await?;
            self.commit(&mut changes).await?;
            self.is_touched.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// How much of `len` bytes at `offset` is inside.
    fn within(&self, offset: u64, len: usize) -> usize {
        disk::within(self.len(), offset, len)
    }

    fn is_aligned(&self, offset: u64, len: usize) -> bool {
        disk::is_aligned(self.alignment, offset, len)
    }
}
