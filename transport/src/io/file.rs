//! Open files, shared with the operations in flight on them.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{Arc, OnceLock, atomic::AtomicBool},
};

use io_uring::{opcode, types};
use rustix::fs::{AtFlags, FallocateFlags, OFlags, StatxFlags, fcntl_getfl, statx};

use super::{
    Cost,
    engine::{self, Engine},
    pool, ring,
};

/// An open file. Clones share the descriptor, which closes with the last of them and after the
/// last operation in flight.
#[derive(Clone, Debug)]
pub struct File(Arc<State>);

#[derive(Debug)]
struct State {
    fd: OwnedFd,
    direct: bool,
    /// What O_DIRECT asks of this file, once it is known.
    direct_align: OnceLock<Option<DirectAlign>>,
    /// Whether this file's filesystem knows RWF_NOWAIT for reads and for writes.
    nowait_read: AtomicBool,
    nowait_write: AtomicBool,
    /// What buffered writes on this mount cost.
    write_cost: Arc<Cost>,
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
        let direct = fcntl_getfl(&fd)?.contains(OFlags::DIRECT);
        Ok(Self(Arc::new(State {
            fd,
            direct,
            direct_align: OnceLock::new(),
            nowait_read: AtomicBool::new(true),
            nowait_write: AtomicBool::new(true),
            write_cost,
        })))
    }

    /// Whether the file was opened with O_DIRECT.
    pub fn is_direct(&self) -> bool {
        self.0.direct
    }

    /// What O_DIRECT asks of this file; `None` where its filesystem does not tell.
    pub(super) fn direct_align(&self) -> Option<DirectAlign> {
        *self.0.direct_align.get_or_init(|| {
            let stat = statx(&self.0.fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
            let told = stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
            let (memory, offset) = (stat.stx_dio_mem_align, stat.stx_dio_offset_align);
            (told && memory != 0 && offset != 0)
                .then(|| DirectAlign { memory: memory as usize, offset: offset.into() })
        })
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
        self.0.fd.as_fd()
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
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
/// When the future is dropped, the operation still runs to its end.
pub async fn fsync(file: &File, kind: SyncKind) -> io::Result<()> {
    let file = file.clone();
    match engine::current() {
        Engine::Uring => {
            let flags = match kind {
                SyncKind::All => types::FsyncFlags::empty(),
                SyncKind::Data => types::FsyncFlags::DATASYNC,
            };
            let entry = opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(flags).build();
            // SAFETY: the entry names no memory, and `file` keeps its descriptor.
            let (result, _file) = unsafe { ring::submit(file, entry) }.await;
            result.map(drop)
        }
        Engine::Threads => {
            pool::on_pool(move || match kind {
                SyncKind::All => rustix::fs::fsync(&file),
                SyncKind::Data => rustix::fs::fdatasync(&file),
            })
            .await??;
            Ok(())
        }
    }
}

/// Changes the space of `file` in `offset..offset + len`; `mode` holds the bits of `fallocate(2)`.
///
/// # Errors
/// Those of `fallocate(2)`.
///
/// # Cancel safety
/// When the future is dropped, the operation still runs to its end.
pub async fn fallocate(file: &File, mode: u32, offset: u64, len: u64) -> io::Result<()> {
    let file = file.clone();
    match engine::current() {
        Engine::Uring => {
            let entry = opcode::Fallocate::new(types::Fd(file.as_raw_fd()), len)
                .offset(offset)
                .mode(mode.cast_signed())
                .build();
            // SAFETY: the entry names no memory, and `file` keeps its descriptor.
            let (result, _file) = unsafe { ring::submit(file, entry) }.await;
            result.map(drop)
        }
        Engine::Threads => {
            let mode = FallocateFlags::from_bits_retain(mode);
            pool::on_pool(move || rustix::fs::fallocate(&file, mode, offset, len)).await??;
            Ok(())
        }
    }
}
