//! Open files, shared with the operations in flight on them.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{Arc, OnceLock, atomic::AtomicBool},
};

use io_uring::{opcode, types};
use rustix::fs::{AtFlags, FallocateFlags, OFlags, StatxFlags, fcntl_getfl, statx};

use super::{
    Closed, Closer, Cost, Pool, close_remote,
    closer::is_no_room,
    engine::{self, Engine},
    ring,
};

/// An open file. Clones share the descriptor, which closes with the last of them and after the
/// last operation in flight.
#[derive(Clone, Debug)]
pub struct File(Arc<State>);

#[derive(Debug)]
struct State {
    /// Taken only to close it.
    fd: Option<OwnedFd>,
    /// Where everything is done that may reach the file's filesystem.
    only_on: Option<Arc<Pool>>,
    direct: bool,
    /// Whether each write waits for the disk (O_SYNC, O_DSYNC).
    sync: bool,
    /// What O_DIRECT asks of this file, once it is known.
    direct_align: OnceLock<Option<DirectAlign>>,
    /// Whether this file's filesystem knows RWF_NOWAIT for reads and for writes.
    nowait_read: AtomicBool,
    nowait_write: AtomicBool,
    /// What buffered writes on this mount cost that do not wait for the disk.
    write_cost: Arc<Cost>,
    /// What may still have to be freed before there is no room.
    closer: Option<Arc<Closer>>,
}

/// What O_DIRECT asks of a file, in bytes (`STATX_DIOALIGN`).
#[derive(Clone, Copy, Debug)]
pub(super) struct DirectAlign {
    pub(super) memory: usize,
    pub(super) offset: u64,
}

impl File {
    /// Takes over `fd`. `write_cost` is shared by the files of one mount.
    ///
    /// # Errors
    /// When the flags of `fd` cannot be read.
    pub fn new(fd: OwnedFd, write_cost: Arc<Cost>) -> io::Result<Self> {
        Self::of(fd, write_cost, None)
    }

    /// Takes over `fd`, a file of another machine or process, which may answer late or never. Everything is done on
    /// threads of `pool`, whatever the engine: reads and writes of cached data too, because the kernel asks
    /// for attributes first, and closing, because it writes back what is cached.
    ///
    /// # Errors
    /// When the flags of `fd` cannot be read. It is closed on the pool then too.
    pub fn remote(fd: OwnedFd, write_cost: Arc<Cost>, pool: Arc<Pool>) -> io::Result<Self> {
        Self::of(fd, write_cost, Some(pool))
    }

    fn of(fd: OwnedFd, write_cost: Arc<Cost>, only_on: Option<Arc<Pool>>) -> io::Result<Self> {
        let flags = fcntl_getfl(&fd);
        let has = |flag| flags.is_ok_and(|flags| flags.contains(flag));
        let state = State {
            fd: Some(fd),
            only_on,
            direct: has(OFlags::DIRECT),
            // O_SYNC contains it.
            sync: has(OFlags::DSYNC),
            direct_align: OnceLock::new(),
            nowait_read: AtomicBool::new(true),
            nowait_write: AtomicBool::new(true),
            write_cost,
            closer: None,
        };
        flags?;
        Ok(Self(Arc::new(state)))
    }

    /// Lets writes and [`fallocate`] that find no room wait for what `closer` has to close, and try once more.
    pub fn waiting_for(mut self, closer: Arc<Closer>) -> Self {
        if let Some(state) = Arc::get_mut(&mut self.0) {
            state.closer = Some(closer);
        }
        self
    }

    /// To be asked before something that may need room.
    pub(super) fn freed(&self) -> Option<Closed> {
        self.0.closer.as_ref().map(|closer| closer.now())
    }

    /// Whether there may be room that was not there at `before`; it is waited for.
    pub(super) async fn has_freed_since(&self, before: Option<Closed>) -> bool {
        match (&self.0.closer, before) {
            (Some(closer), Some(before)) => closer.has_freed_since(before).await,
            _ => false,
        }
    }

    /// Whether the file was opened with O_DIRECT.
    pub fn is_direct(&self) -> bool {
        self.0.direct
    }

    /// What O_DIRECT asks of this file; `None` where its filesystem does not tell.
    pub(super) async fn direct_align(&self) -> Option<DirectAlign> {
        if let Some(known) = self.0.direct_align.get() {
            return *known;
        }
        let Some(pool) = &self.0.only_on else { return self.ask_direct_align() };
        let file = self.clone();
        pool.run(move || file.ask_direct_align()).await.ok()?
    }

    fn ask_direct_align(&self) -> Option<DirectAlign> {
        *self.0.direct_align.get_or_init(|| {
            let stat = statx(self, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
            let told = stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
            let (memory, offset) = (stat.stx_dio_mem_align, stat.stx_dio_offset_align);
            (told && memory != 0 && offset != 0)
                .then(|| DirectAlign { memory: memory as usize, offset: offset.into() })
        })
    }

    fn is_remote(&self) -> bool {
        self.0.only_on.is_some()
    }

    /// Whether what is cached may be read on the worker's own thread.
    pub(super) fn is_read_inline(&self) -> bool {
        !self.0.direct && !self.is_remote()
    }

    /// Whether the worker's own thread may write while writes are quick.
    pub(super) fn is_written_inline(&self) -> bool {
        !self.0.direct && !self.0.sync && !self.is_remote()
    }

    /// Whether this thread sends what cannot be answered at once to its ring.
    pub(super) fn takes_ring(&self) -> bool {
        engine::current() == Engine::Uring && !self.is_remote() && ring::has_room()
    }

    /// Where this thread sends what does not go to its ring.
    pub(super) fn pool(&self) -> Arc<Pool> {
        self.0.only_on.clone().unwrap_or_else(engine::pool)
    }

    pub(super) fn write_cost(&self) -> &Arc<Cost> {
        &self.0.write_cost
    }

    pub(super) fn nowait_read(&self) -> &AtomicBool {
        &self.0.nowait_read
    }

    pub(super) fn nowait_write(&self) -> &AtomicBool {
        &self.0.nowait_write
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_ref().expect("open until it is dropped").as_fd()
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let (Some(fd), Some(pool)) = (self.fd.take(), &self.only_on) {
            pool.later(move || close_remote(fd));
        }
    }
}

/// What an fsync covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncKind {
    /// Data and all metadata (`fsync`).
    All,
    /// Data, and the metadata needed to read it (`fdatasync`).
    Data,
}

/// Writes what is cached of `file` to stable storage.
///
/// # Errors
/// Those of `fsync(2)`: the error of a write that failed earlier arrives here.
///
/// # Cancel safety
/// When the future is dropped, an operation that has begun runs to its end.
pub async fn fsync(file: &File, kind: SyncKind) -> io::Result<()> {
    if file.takes_ring() {
        let flags = match kind {
            SyncKind::All => types::FsyncFlags::empty(),
            SyncKind::Data => types::FsyncFlags::DATASYNC,
        };
        let entry = opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(flags).build();
        // SAFETY: the entry names no memory, and the clone keeps its descriptor.
        let (result, _file) = unsafe { ring::submit(file.clone(), entry) }.await;
        if !ring::is_refused(&result) {
            return result.map(drop);
        }
    }
    let (pool, file) = (file.pool(), file.clone());
    let sync = move || match kind {
        SyncKind::All => rustix::fs::fsync(&file),
        SyncKind::Data => rustix::fs::fdatasync(&file),
    };
    Ok(pool.run(sync).await??)
}

/// Changes the space of `file` in `offset..offset + len`; `mode` holds the bits of `fallocate(2)`.
///
/// # Errors
/// Those of `fallocate(2)`.
///
/// # Cancel safety
/// When the future is dropped, an operation that has begun runs to its end.
pub async fn fallocate(file: &File, mode: u32, offset: u64, len: u64) -> io::Result<()> {
    let before = file.freed();
    match fallocate_once(file, mode, offset, len).await {
        Err(error) if is_no_room(&error) && file.has_freed_since(before).await => {
            fallocate_once(file, mode, offset, len).await
        }
        done => done,
    }
}

async fn fallocate_once(file: &File, mode: u32, offset: u64, len: u64) -> io::Result<()> {
    if file.takes_ring() {
        let entry = opcode::Fallocate::new(types::Fd(file.as_raw_fd()), len)
            .offset(offset)
            .mode(mode.cast_signed())
            .build();
        // SAFETY: the entry names no memory, and the clone keeps its descriptor.
        let (result, _file) = unsafe { ring::submit(file.clone(), entry) }.await;
        if !ring::is_refused(&result) {
            return result.map(drop);
        }
    }
    let (pool, file) = (file.pool(), file.clone());
    let mode = FallocateFlags::from_bits_retain(mode);
    Ok(pool.run(move || rustix::fs::fallocate(&file, mode, offset, len)).await??)
}
