//! A raw image: the file is the content.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use fsrv_transport::mem::{Filled, InBuf, OutBuf};
use tokio::sync::RwLock;

use crate::{
    disk::{self, Resize, Stat, Zeroing},
    storage::{HostFile, Seek, Way},
};

/// A raw image.
#[derive(Debug)]
pub(crate) struct Raw {
    file: HostFile,
    len: AtomicU64,
    /// Shared by reads and writes; what needs to be alone takes all of it.
    access: RwLock<()>,
}

impl Raw {
    /// # Errors
    /// When its length cannot be told.
    pub(crate) fn new(file: HostFile) -> io::Result<Self> {
        let len = file.len()?.into();
        Ok(Self { file, len, access: RwLock::new(()) })
    }

    pub(crate) fn alignment(&self) -> u32 {
        self.file.alignment()
    }

    pub(crate) async fn stat(&self) -> io::Result<Stat> {
        self.file.stat().await
    }

    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub(crate) async fn read(&self, out: OutBuf, offset: u64) -> io::Result<Filled> {
        let _shared = self.access.read().await;
        let len = self.within(offset, out.remaining());
        let way = if self.is_aligned(offset, len) { Way::Data } else { Way::Cached };
        Ok(self.file.read(out, len, offset, way).await?.finish())
    }

    pub(crate) async fn write(&self, data: InBuf, offset: u64) -> io::Result<usize> {
        if self.is_aligned(offset, data.len()) {
            let _shared = self.access.read().await;
            let len = self.within(offset, data.len());
            if self.is_aligned(offset, len) {
                return Ok(self.file.write(data, len, offset, Way::Data).await?.0);
            }
        }
        // What it shares a block with is read and written back by the page cache, so nobody else may write there.
        let _alone = self.access.write().await;
        let len = self.within(offset, data.len());
        Ok(self.file.write(data, len, offset, Way::Cached).await?.0)
    }

    pub(crate) async fn flush(&self) -> io::Result<()> {
        self.file.sync().await
    }

    pub(crate) async fn resize(&self, to: Resize) -> io::Result<()> {
        let _alone = self.access.write().await;
        let old = self.len();
        let Some(new) = to.from(old) else { return Ok(()) };
        if to.allocates() && new > old {
            self.file.allocate(old, new - old).await?;
        } else {
            self.file.set_len(new).await?;
        }
        self.len.store(new, Ordering::Release);
        Ok(())
    }

    pub(crate) async fn zero(&self, offset: u64, len: u64, how: Zeroing) -> io::Result<()> {
        let _shared = self.access.read().await;
        let len = len.min(self.len().saturating_sub(offset));
        if len == 0 {
            return Ok(());
        }
        self.file.zero(offset, len, how).await
    }

    pub(crate) async fn seek(&self, offset: u64, what: Seek) -> io::Result<Option<u64>> {
        self.file.seek(offset, what).await
    }

    /// How much of `len` bytes at `offset` is inside.
    fn within(&self, offset: u64, len: usize) -> usize {
        disk::within(self.len(), offset, len)
    }

    fn is_aligned(&self, offset: u64, len: usize) -> bool {
        disk::is_aligned(self.alignment(), offset, len)
    }
}
