//! All that imago calls, and what of it is called that can break what others have found in the map.
#![expect(
    unsafe_code,
    reason = "imago's trait for files has unsafe functions, and so has its way to free clusters"
)]

use std::{fmt, io, sync::Arc};

use imago::{
    FormatAccess, Storage,
    io_buffers::{IoVector, IoVectorMut},
    storage::{PreallocateMode, drivers::CommonStorageHelper},
};

use super::Metadata;
use crate::{disk::Zeroing, storage::HostFile};

/// What shows where a cluster was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Discard {
    /// Zeroes. Version 2 has no such clusters.
    ToZeroes,
    /// What is below the image.
    ToBacking,
}

/// Frees clusters of `len` bytes at `offset`, of one L2 table at the most, and returns how many bytes; both begin and end
/// at clusters. The caller is alone among those who change the map, and nothing is allocated before a commit.
///
/// # Errors
/// What the host said.
pub(super) async fn discard(
    format: &FormatAccess<Handle>,
    offset: u64,
    len: u64,
    how: Discard,
) -> io::Result<u64> {
    let inner = format.inner();
    // SAFETY: mappings that were looked up must not be used for a cluster that somebody else has by now. Who uses one
    // holds a part of `Qcow2::access` for as long. What was freed is given to nobody, here or in imago, before
    // `Qcow2::commit`, which takes all of `access`. imago itself keeps no mapping between calls: those that change the map
    // run one at a time, under `Qcow2::allocating`, and data is never read or written through it beside them.
    let (_, freed) = unsafe {
        match how {
            Discard::ToZeroes => inner.discard_to_zero_unsafe(offset, len).await?,
            Discard::ToBacking => inner.discard_to_backing_unsafe(offset, len).await?,
        }
    };
    Ok(freed)
}

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
            Part::Metadata(metadata) => metadata.may_free(),
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

/// What is relied on of imago, and why its version is said exactly.
#[cfg(test)]
mod tests {
    use std::process::Command;

    use imago::Mapping;

    use super::{super::header::Header, super::header::Table, super::open::open_layer, *};
    use crate::storage::Access;

    const CLUSTER: u64 = 1 << 16;

    struct Opened {
        _dir: tempfile::TempDir,
        metadata: Arc<Metadata>,
        format: FormatAccess<Handle>,
    }

    fn on_image(test: impl AsyncFnOnce(Opened)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("image");
            let mut create = Command::new("qemu-img");
            create.args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("64M");
            assert!(create.status().unwrap().success());
            let file = Arc::new(HostFile::open(&path, Access::Write, false).unwrap());
            let header = Header::read(&file).await.unwrap().unwrap();
            let metadata = Arc::new(Metadata::new(file.clone(), &header));
            metadata.prepare(&header).await.unwrap();
            let data = Handle::data(file, Some(metadata.clone()));
            let format = open_layer(metadata.clone(), data, None, true).await.unwrap();
            test(Opened { _dir: dir, metadata, format }).await;
        });
    }

    impl Opened {
        /// Gives the cluster at `guest` a place.
        async fn place(&self, guest: u64) -> u64 {
            let mapping = self.format.prepare_data_mapping(guest, CLUSTER, true).await.unwrap();
            let place = mapping.offset();
            self.format.commit_data_mapping(mapping).await.unwrap();
            place
        }

        async fn is_zero(&self, guest: u64) -> bool {
            let (mapping, _) = self.format.get_mapping(guest, CLUSTER).await.unwrap();
            matches!(mapping, Mapping::Zero { .. })
        }

        async fn discard(&self, guest: u64) {
            let freed = discard(&self.format, guest, CLUSTER, Discard::ToZeroes).await.unwrap();
            assert_eq!(freed, CLUSTER);
        }
    }

    #[test]
    fn what_is_freed_is_asked_for_and_taken_by_the_next_place() {
        on_image(async |opened: Opened| {
            let first = opened.place(0).await;
            assert!(!opened.metadata.freed());
            opened.discard(0).await;
            assert!(opened.metadata.freed() && opened.is_zero(0).await);
            assert_eq!(opened.place(CLUSTER).await, first);
        });
    }

    #[test]
    fn nothing_is_freed_that_must_not_be() {
        on_image(async |opened: Opened| {
            let first = opened.place(0).await;
            opened.metadata.refuses_to_free();
            opened.discard(0).await;
            assert!(!opened.metadata.freed() && opened.is_zero(0).await);
            assert_ne!(opened.place(CLUSTER).await, first);
        });
    }

    #[test]
    fn a_place_is_shown_when_it_is_committed_and_free_when_it_is_not() {
        on_image(async |opened: Opened| {
            opened.place(0).await;
            let mapping = opened.format.prepare_data_mapping(CLUSTER, CLUSTER, true).await.unwrap();
            let place = mapping.offset();
            drop(mapping);
            assert!(opened.is_zero(CLUSTER).await && !opened.metadata.freed());
            opened.format.flush().await.unwrap();
            assert!(opened.metadata.freed());
            assert_eq!(opened.place(2 * CLUSTER).await, place);
        });
    }

    #[test]
    fn metadata_comes_to_the_file_by_a_commit_alone() {
        on_image(async |opened: Opened| {
            let before = opened.metadata.file().read_bytes(0, 1 << 20).await.unwrap();
            opened.place(0).await;
            opened.discard(0).await;
            opened.format.flush().await.unwrap();
            let table = Table { offset: 0, entries: 1 };
            opened.metadata.view_table(table).await.unwrap();
            let after = opened.metadata.file().read_bytes(0, before.len()).await.unwrap();
            assert!(before == after);
        });
    }
}
