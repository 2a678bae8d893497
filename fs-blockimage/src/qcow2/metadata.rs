//! Header and tables of an image, and what of them is not in the file yet.

use std::{
    collections::{BTreeMap, HashSet},
    fmt, io,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::{
    bitmaps::{Bitmap, Change},
    features,
    given_up::GivenUp,
    header::{self, Fault, Header, Table},
    known::Known,
    layout::{self, Kind, Layout},
    ownership::{Claims, Ownership, REPAIR},
    refcounts, resize,
};
use crate::storage::HostFile;

/// Where places end that L2 entries can name.
const PLACE_MAX: u64 = 1 << 56;

/// Clusters that imago has written, by where they are.
pub(super) type Blocks = BTreeMap<u64, Arc<Vec<u8>>>;

/// Header and tables of an image.
///
/// What imago writes of them stays in memory until [`Metadata::commit`] brings it to the file, in an order in which a
/// power cut at any point leaves a consistent image. imago knows no order.
///
/// imago is shown a size as large as the L1 table allows: the size that clients see is kept here. Of a header it sees the
/// part that is the same in all versions, and what changes the meaning of tables.
pub(crate) struct Metadata {
    file: Arc<HostFile>,
    cluster_bits: u32,
    refcount_order: u32,
    /// Bytes that clients see.
    len: AtomicU64,
    /// Bytes that they could see with this L1 table.
    cover: AtomicU64,
    pending: Mutex<Blocks>,
    known: Mutex<Known>,
    /// Where things are in the file, as of the last commit.
    layout: Mutex<Arc<Layout>>,
    /// The file is to be at least this long: QEMU takes clusters behind its end for corrupt.
    reach: AtomicU64,
    /// Whether imago freed clusters that the file may still refer to.
    freed: AtomicBool,
    /// Whether there are L2 tables that snapshots refer to.
    has_shared_tables: AtomicBool,
    pub(super) given_up: Mutex<GivenUp>,
    /// What is free in the file, and not given back to the host yet.
    pub(super) free: Mutex<Vec<Range<u64>>>,
    /// Where data was that may be free.
    pub(super) unused: Mutex<Vec<Range<u64>>>,
    /// Clusters that became tables.
    pub(super) made: Mutex<HashSet<u64>>,
    /// How often the host failed to give metadata.
    failures: AtomicU64,
    /// What the tables may not refer to, when they are to be changed.
    ownership: OnceLock<Ownership>,
    is_external: bool,
    /// What others keep in it about changes.
    pub(super) bitmaps: Mutex<Vec<Bitmap>>,
    /// The autoclear features, and what of them still holds after the first change.
    autoclear: u64,
    kept: u64,
    /// Whether the length may change: a snapshot that does not know its own has the image's.
    may_resize: AtomicBool,
}

impl Metadata {
    pub(super) fn new(file: Arc<HostFile>, header: &Header) -> Self {
        let layout = Layout::new(header.reftable, header.l1, &[]);
        Self {
            file,
            cluster_bits: header.cluster_bits,
            refcount_order: header.refcount_order,
            len: header.size.into(),
            cover: header.cover().into(),
            pending: Mutex::default(),
            known: Mutex::default(),
            layout: Mutex::new(Arc::new(layout)),
            reach: AtomicU64::default(),
            freed: AtomicBool::default(),
            has_shared_tables: AtomicBool::default(),
            given_up: Mutex::default(),
            free: Mutex::default(),
            unused: Mutex::default(),
            made: Mutex::default(),
            failures: AtomicU64::default(),
            ownership: OnceLock::new(),
            is_external: header.data_file.is_some(),
            bitmaps: Mutex::default(),
            autoclear: header.autoclear,
            kept: features::kept(header),
            may_resize: true.into(),
        }
    }

    /// The same for a backing image: behind its end there is nothing to be seen.
    pub(super) fn backing(file: Arc<HostFile>, header: &Header) -> Self {
        Self { cover: header.size.into(), ..Self::new(file, header) }
    }

    /// Learns, and checks, what a writer must know. Nothing is changed.
    ///
    /// # Errors
    /// What the host said, and what of the image is not valid.
    pub(super) async fn prepare(&self, header: &Header) -> Result<(), Fault> {
        let reftable = self.view_table(header.reftable).await?;
        let l1 = self.view_table(header.l1).await?;
        let mut claims = Claims::new(header, &reftable, &l1, self.file.len()?)?;
        let may_resize = self.claim_snapshots(header, &mut claims).await?;
        if let Some(extension) = header.valid_bitmaps() {
            let bitmaps = self.claim_bitmaps(extension, &mut claims).await?;
            *self.bitmaps.lock().unwrap_or_else(PoisonError::into_inner) = bitmaps;
        }
        let ownership = claims.settle(header, &reftable)?;
        let mut block = (0, Vec::new());
        for (cluster, least) in ownership.clusters() {
            let count = self.refcount(header, &reftable, cluster, &mut block).await?;
            if count < least {
                let why = format!("its cluster at {cluster:#x} has a refcount of {count}");
                return Err(format!("{why}; {REPAIR}").into());
            }
        }
        self.may_resize.store(may_resize, Ordering::Relaxed);
        self.has_shared_tables.store(ownership.is_shared(), Ordering::Relaxed);
        self.set_layout(Layout::new(header.reftable, header.l1, &reftable).into());
        // It is prepared once.
        let _ = self.ownership.set(ownership);
        Ok(())
    }

    /// Whether something in the image does not hold any more when its content changes.
    pub(super) fn has_claims(&self) -> bool {
        self.autoclear != self.kept || self.has_bitmaps_for(Change::Content)
    }

    /// Takes back what does not hold any more when the content changes; a commit is to follow.
    ///
    /// # Errors
    /// What the host said.
    pub(super) async fn drop_claims(&self) -> io::Result<()> {
        if self.autoclear != self.kept {
            self.put(header::AUTOCLEAR.start as u64, &self.kept.to_be_bytes()).await?;
            let (path, dropped) = (self.file.path().display(), self.autoclear & !self.kept);
            tracing::warn!(
                "{path}: its autoclear features {dropped:#x} are not known, and dropped"
            );
        }
        self.distrust(Change::Content).await
    }

    pub(super) fn may_resize(&self) -> bool {
        self.may_resize.load(Ordering::Relaxed)
    }

    pub(crate) fn file(&self) -> &HostFile {
        &self.file
    }

    pub(super) fn refcount_order(&self) -> u32 {
        self.refcount_order
    }

    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes that clients see.
    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Bytes that they could see with this L1 table.
    pub(super) fn cover(&self) -> u64 {
        self.cover.load(Ordering::Acquire)
    }

    /// Changes the size that clients see.
    ///
    /// # Errors
    /// What the host said.
    pub(super) async fn set_len(&self, len: u64) -> io::Result<()> {
        let in_header = resize::in_sectors(len);
        self.put(header::SIZE.start as u64, &in_header.to_be_bytes()).await?;
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    /// Bytes of metadata in memory.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending().len() << self.cluster_bits
    }

    pub(super) fn freed(&self) -> bool {
        self.freed.load(Ordering::Acquire)
    }

    /// How often the host failed to give metadata: imago's tables may then not be what it has written.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Says that there is something in the file up to `end`.
    pub(super) fn reach(&self, end: u64) {
        self.reach.fetch_max(end, Ordering::Relaxed);
    }

    pub(super) fn reached(&self) -> u64 {
        self.reach.load(Ordering::Relaxed)
    }

    /// Whether a cluster was metadata when the image was opened.
    pub(super) fn is_owned(&self, at: u64) -> bool {
        self.ownership.get().is_some_and(|ownership| ownership.owns(at))
    }

    /// Whether there are L2 tables that snapshots refer to.
    pub(super) fn has_shared_tables(&self) -> bool {
        self.has_shared_tables.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn share_tables(&self) {
        self.has_shared_tables.store(true, Ordering::Relaxed);
    }

    pub(super) fn note_free(&self) {
        self.freed.store(true, Ordering::Release);
    }

    /// For imago.
    ///
    /// # Errors
    /// What the host said, and for tables that refer to what they must not.
    pub(crate) async fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = self.view(offset, len).await.inspect_err(|_| self.note_failure())?;
        self.is_known(offset);
        if offset < self.cluster() {
            self.disguise(offset as usize, &mut bytes);
        } else if let Some(ownership) = self.ownership.get()
            && len as u64 == self.cluster()
            && !self.is_external
        {
            ownership.check_l2(offset, &bytes, |at| self.is_made(at)).map_err(io::Error::other)?;
        }
        Ok(bytes)
    }

    /// Hides what of the header is not imago's affair.
    fn disguise(&self, offset: usize, bytes: &mut [u8]) {
        let cover = self.cover().to_be_bytes();
        for (at, byte) in (offset..).zip(bytes) {
            if header::SIZE.contains(&at) {
                *byte = cover[at - header::SIZE.start];
            } else if header::BACKING.contains(&at)
                || header::AUTOCLEAR.contains(&at)
                || at >= header::V3_LEN
            {
                *byte = 0;
            } else if at == header::DAMAGE {
                *byte &= !features::DAMAGE;
            } else if let Some(at) = at.checked_sub(header::LEN.start)
                && at < header::LEN.len()
            {
                *byte = (header::V3_LEN as u32).to_be_bytes()[at];
            }
        }
    }

    /// For imago. Of the header it writes the part that is the same in all versions.
    ///
    /// # Errors
    /// What the host said.
    pub(crate) async fn write(&self, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        if offset >= self.cluster() {
            let put = self.put_table(offset, bytes).await;
            return put.inspect_err(|_| self.note_failure());
        }
        if offset != 0 || bytes.len() != header::V2_LEN {
            return Err(io::Error::other("no such part of the header is written"));
        }
        let (l1, reftable) = header::tables(&bytes, self.cluster_bits);
        self.cover.store(header::cover(l1.entries, self.cluster_bits), Ordering::Release);
        let before = self.view(0, header::V2_LEN).await.inspect_err(|_| self.note_failure())?;
        let (_, old) = header::tables(&before, self.cluster_bits);
        // Where the two tables are is all that it changes.
        for range in [header::L1, header::REFTABLE] {
            let put = self.put(range.start as u64, &bytes[range]).await;
            put.inspect_err(|_| self.note_failure())?;
        }
        if old.offset != reftable.offset {
            self.replaces_reftable(old);
        }
        Ok(())
    }

    /// A table, or a part of the L1 table or the refcount table.
    async fn put_table(&self, offset: u64, mut bytes: Vec<u8>) -> io::Result<()> {
        let is_entry = bytes.len() == 8 && self.layout().l1.contains(offset);
        let old = if is_entry { self.view(offset, 8).await? } else { Vec::new() };
        self.take_given_up(offset, &mut bytes);
        self.note_made(offset, bytes.len() as u64);
        if bytes.len() == self.cluster() as usize && offset.is_multiple_of(self.cluster()) {
            self.reach(offset + bytes.len() as u64);
            self.pending().insert(offset, Arc::new(bytes));
            return Ok(());
        }
        self.put(offset, &bytes).await?;
        if is_entry {
            self.replaces_entry(&old, &bytes);
        }
        Ok(())
    }

    fn note_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// The bytes at `offset` as they will be in the file.
    pub(super) async fn view(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            let left = len - bytes.len();
            let (start, inside) = self.piece(at, left);
            let next = self.pending().range(start..).next().map(|(&at, _)| at);
            // As much at once as the file has.
            let until = next.map_or(left, |next| next.saturating_sub(at).min(left as u64) as usize);
            if until >= left {
                bytes.extend(self.file.read_padded(at, left).await?);
                break;
            }
            // What is not pending now does not become it while it is read: imago does not load what it writes.
            let block = self.pending().get(&start).cloned();
            match block {
                Some(block) => bytes.extend_from_slice(&block[inside]),
                None => bytes.extend(self.file.read_padded(at, inside.len()).await?),
            }
        }
        Ok(bytes)
    }

    /// Keeps `bytes` for the file.
    pub(super) async fn put(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.reach(offset + bytes.len() as u64);
        let mut done = 0;
        while done < bytes.len() {
            let (start, inside) = self.piece(offset + done as u64, bytes.len() - done);
            let next = done + inside.len();
            self.put_block(start, inside, &bytes[done..next]).await?;
            done = next;
        }
        Ok(())
    }

    /// Of `len` bytes at `offset` those that are in the first cluster: where that is, and which of its bytes they are.
    fn piece(&self, offset: u64, len: usize) -> (u64, Range<usize>) {
        let start = offset & !(self.cluster() - 1);
        let inside = (offset - start) as usize;
        (start, inside..(inside + len).min(self.cluster() as usize))
    }

    async fn put_block(&self, start: u64, inside: Range<usize>, bytes: &[u8]) -> io::Result<()> {
        let cluster = self.cluster() as usize;
        if bytes.len() == cluster {
            self.pending().insert(start, Arc::new(bytes.to_vec()));
            return Ok(());
        }
        let is_pending = self.pending().contains_key(&start);
        if !is_pending {
            let base = self.in_file(start).await?;
            self.pending().entry(start).or_insert(base);
        }
        if let Some(block) = self.pending().get_mut(&start) {
            Arc::make_mut(block)[inside].copy_from_slice(bytes);
        }
        Ok(())
    }

    /// The cluster at `start` as the file has it.
    pub(super) async fn in_file(&self, start: u64) -> io::Result<Arc<Vec<u8>>> {
        if let Some(known) = self.known().get(start) {
            return Ok(known);
        }
        Ok(Arc::new(self.file.read_padded(start, self.cluster() as usize).await?))
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content of a table.
    pub(super) async fn view_table(&self, table: Table) -> io::Result<Vec<u8>> {
        self.view(table.offset, table.entries as usize * 8).await
    }

    /// The refcount of a cluster, as the file has it. `last` is the block that was looked into last, and where it is.
    async fn refcount(
        &self,
        header: &Header,
        reftable: &[u8],
        cluster: u64,
        last: &mut (u64, Vec<u8>),
    ) -> io::Result<u64> {
        let index = cluster >> header.cluster_bits;
        let bits = header.refblock_bits();
        let Some(at) = layout::number(reftable, (index >> bits) as usize).filter(|&at| at != 0)
        else {
            return Ok(0);
        };
        if last.0 != at {
            *last = (at, self.view(at, self.cluster() as usize).await?);
        }
        let nth = (index & ((1 << bits) - 1)) as usize;
        Ok(refcounts::nth(&last.1, nth, header.refcount_order))
    }

    /// An error where `offset..offset + len` is no place for data.
    ///
    /// What is metadata at the time is known by the last commit, by what waits for the next one, and by what became a
    /// table since the image was opened.
    ///
    /// # Errors
    /// When some of it is metadata, or farther than an L2 entry can say.
    pub(crate) fn refuse_data(&self, offset: u64, len: u64) -> io::Result<()> {
        let cluster = self.cluster();
        if offset.saturating_add(len) > PLACE_MAX - 2 * cluster {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        let layout = self.layout();
        let pending = self.pending();
        let is_metadata =
            |at: u64| layout.kind(at) != Kind::L2 || pending.contains_key(&at) || self.is_made(at);
        match (offset & !(cluster - 1)..offset + len)
            .step_by(cluster as usize)
            .find(|&at| is_metadata(at))
        {
            None => Ok(()),
            Some(at) => Err(io::Error::other(format!(
                "data would be where its metadata is, at {at:#x}; {REPAIR}"
            ))),
        }
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, Blocks> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn layout(&self) -> Arc<Layout> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_layout(&self, layout: Arc<Layout>) {
        *self.layout.lock().unwrap_or_else(PoisonError::into_inner) = layout;
    }

    /// The file refers to nothing that imago has freed.
    pub(super) fn is_settled(&self) {
        self.freed.store(false, Ordering::Release);
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Metadata").field(&self.file).finish()
    }
}
