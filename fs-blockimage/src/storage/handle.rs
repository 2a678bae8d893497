//! A file of an image as imago sees it.

use std::{fmt, io, sync::Arc};

use imago::{
    Storage,
    io_buffers::{IoVector, IoVectorMut},
    storage::{PreallocateMode, drivers::CommonStorageHelper},
};

use super::HostFile;
use crate::{disk::Zeroing, qcow2::Metadata};

/// A file of an image, or what it has there, as imago sees it.
///
/// imago lends its buffers. What goes to the kernel are copies in memory of this process that the operation owns, so
/// that a future may be dropped. All of it goes through the page cache.
#[derive(Clone)]
pub(crate) struct Handle {
    part: Part,
    helper: Arc<CommonStorageHelper>,
}

#[derive(Clone)]
enum Part {
    /// Clusters of data. What imago itself moves of them is what a write does not cover of its cluster. With the
    /// metadata that lies in the same file, where that is to be changed.
    Data(Arc<HostFile>, Option<Arc<Metadata>>),
    /// Header and tables.
    Metadata(Arc<Metadata>),
}

impl Handle {
    pub(crate) fn data(file: Arc<HostFile>, beside: Option<Arc<Metadata>>) -> Self {
        Self { part: Part::Data(file, beside), helper: Arc::default() }
    }

    pub(crate) fn metadata(metadata: Arc<Metadata>) -> Self {
        Self { part: Part::Metadata(metadata), helper: Arc::default() }
    }

    /// The file that it is in.
    pub(crate) fn file(&self) -> &HostFile {
        match &self.part {
            Part::Data(file, _) => file,
            Part::Metadata(metadata) => metadata.file(),
        }
    }

    /// The file, for who writes data to `offset..offset + len` of it.
    ///
    /// # Errors
    /// When there is metadata: the tables of a hostile image may say that data is there.
    pub(crate) fn file_to_write(&self, offset: u64, len: u64) -> io::Result<&HostFile> {
        if let Part::Data(_, Some(metadata)) = &self.part {
            metadata.refuse_data(offset, len)?;
        }
        Ok(self.file())
    }

    pub(crate) fn as_metadata(&self) -> Option<&Metadata> {
        match &self.part {
            Part::Data(..) => None,
            Part::Metadata(metadata) => Some(metadata),
        }
    }

    /// The bytes at `offset`; zeroes behind the end of the file.
    async fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        match &self.part {
            Part::Data(file, _) => file.read_padded(offset, len).await,
            Part::Metadata(metadata) => metadata.read(offset, len).await,
        }
    }

    async fn write(&self, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        match &self.part {
            Part::Data(..) => {
                let file = self.file_to_write(offset, bytes.len() as u64)?;
                file.write_bytes(offset, &bytes).await
            }
            Part::Metadata(metadata) => metadata.write(offset, bytes).await,
        }
    }

    async fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        match &self.part {
            // Behind the end there is nothing to overwrite: only one who allocates makes the file longer, and that is
            // who zeroes here.
            Part::Data(file, _) if offset >= file.len()? => Ok(()),
            Part::Data(..) => {
                self.file_to_write(offset, len)?.zero(offset, len, Zeroing::Free).await
            }
            Part::Metadata(metadata) => {
                let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
                metadata.write(offset, vec![0; len]).await
            }
        }
    }
}

impl Storage for Handle {
    fn size(&self) -> io::Result<u64> {
        self.file().len()
    }

    async unsafe fn pure_readv(&self, mut bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let len = usize::try_from(bufv.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let bytes = self.read(offset, len).await?;
        bufv.copy_from_slice(&bytes);
        Ok(())
    }

    async unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        let len = usize::try_from(bufv.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut bytes = vec![0; len];
        bufv.copy_into_slice(&mut bytes);
        self.write(offset, bytes).await
    }

    async unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(offset, length).await
    }

    async unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(offset, length).await
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    async fn sync(&self) -> io::Result<()> {
        self.file().sync().await
    }

    /// imago calls this before it frees clusters. Nothing is in flight then that nobody waits for: no future of this
    /// process is dropped before it ends, and whoever has clusters freed waits for all others.
    async fn settle_writes(&self) -> io::Result<()> {
        match &self.part {
            Part::Data(..) => Ok(()),
            Part::Metadata(metadata) => metadata.note_freed(),
        }
    }

    async unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    /// Files have the length of what is written to them.
    async fn resize(&self, _: u64, _: PreallocateMode) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file().fmt(f)
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file().path().display().fmt(f)
    }
}
