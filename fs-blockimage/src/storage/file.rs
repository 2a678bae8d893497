//! One file of the host, or block device, that holds an image or a part of one.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use fsrv::types::Timestamp;
use fsrv_transport::{
    io::{self as file_io, Cost, File, HostMount, LONG_TO_FREE, Pool as Threads, SyncKind},
    mem::{InBuf, OutBuf, Pool},
};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, SeekFrom, StatxFlags, fstat, ftruncate,
    openat, seek, statx,
};
use tokio::sync::Mutex;

use super::{
    lock::{self, Access},
    probe::{HostOp, Probe},
};
use crate::{
    disk::{Stat, Zeroing},
    error::OpenError,
    joined::Joined,
};

/// What [`HostFile::seek`] looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seek {
    Data,
    Hole,
}

/// An open file of the host. What concerns data takes and gives owned buffers; what is written is in the host's page
/// cache, or with O_DIRECT on the device, when the future ends.
pub(crate) struct HostFile {
    /// For data; O_DIRECT when that was asked for.
    data: File,
    /// Goes through the page cache.
    cached: File,
    path: PathBuf,
    is_block_device: bool,
    alignment: u32,
    /// What calls on it cost that are neither reads nor writes.
    calls: Arc<Cost>,
    /// Where it is asked, when another machine or process has it, which may never answer.
    threads: Option<Arc<Threads>>,
    /// Zeroes to write where the host cannot make them.
    pool: Pool,
    probe: Option<Arc<dyn Probe>>,
    syncs: Joined,
    /// The error of the first sync that failed.
    failed_sync: Mutex<Option<i32>>,
}

/// Threads that wait for another machine or process, at most.
const THREADS: usize = 64;

/// The most zeroes written by one call.
const ZEROES_MAX: u64 = 1 << 20;

/// The most bytes that one call copies.
const BYTES_MAX: usize = 1 << 20;

impl HostFile {
    /// Opens the file at `path`, and locks it.
    ///
    /// # Errors
    /// When it is neither a regular file nor a block device, cannot be opened, or is in use.
    pub(crate) fn open(path: &Path, access: Access, direct: bool) -> Result<Self, OpenError> {
        let cannot = |error: rustix::io::Errno| OpenError::Open {
            path: path.to_owned(),
            cause: error.into(),
        };
        // Looked at before it is opened: opening a device or a pipe may have effects.
        let place =
            openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(cannot)?;
        Self::of(place, path, access, direct)
    }

    /// Opens what `place`, an O_PATH descriptor, refers to; `path` is for messages.
    ///
    /// # Errors
    /// As [`HostFile::open`].
    pub(crate) fn of(
        place: OwnedFd,
        path: &Path,
        access: Access,
        direct: bool,
    ) -> Result<Self, OpenError> {
        let cannot = |error: rustix::io::Errno| OpenError::Open {
            path: path.to_owned(),
            cause: error.into(),
        };
        let is_block_device = is_block_device(&place, path)?;
        let mode = match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::RDWR,
        };
        let again = format!("/proc/self/fd/{}", place.as_raw_fd());
        let open = |more| {
            openat(CWD, &again, mode | OFlags::CLOEXEC | OFlags::NOCTTY | more, Mode::empty())
        };
        // Locks are of a node, and a device may have many: the kernel keeps others who write from the device itself,
        // by whatever node, and refuses one that is mounted.
        let is_alone = is_block_device && access == Access::Write;
        let exclusive = if is_alone { OFlags::EXCL } else { OFlags::empty() };
        let cached = open(exclusive).map_err(|error| match error {
            rustix::io::Errno::BUSY if is_alone => OpenError::InUse {
                path: path.to_owned(),
                how: "or the host itself, by a mount, has the device",
            },
            error => cannot(error),
        })?;
        lock::take(cached.as_fd(), access).map_err(|refusal| match refusal {
            Ok(how) => OpenError::InUse { path: path.to_owned(), how },
            Err(cause) => OpenError::Lock { path: path.to_owned(), cause },
        })?;
        let cannot_io = |cause| OpenError::Open { path: path.to_owned(), cause };
        let waits = HostMount::of(&cached).may_wait();
        let threads = waits.then(|| Threads::new(THREADS));
        let cost = |local: fn() -> Cost| Arc::new(if waits { Cost::waits() } else { local() });
        let writes = cost(Cost::quick_writes);
        let file = |fd| match &threads {
            None => File::new(fd, writes.clone()),
            Some(threads) => File::remote(fd, writes.clone(), threads.clone()),
        };
        let cached = file(cached).map_err(cannot_io)?;
        let (data, alignment) = if direct {
            let data = open(OFlags::DIRECT).map_err(cannot)?;
            let alignment = direct_alignment(&data);
            (file(data).map_err(cannot_io)?, alignment)
        } else {
            (cached.clone(), 1)
        };
        Ok(Self {
            data,
            cached,
            path: path.to_owned(),
            is_block_device,
            alignment,
            calls: cost(Cost::quick),
            threads,
            pool: Pool::new(),
            probe: None,
            syncs: Joined::default(),
            failed_sync: Mutex::default(),
        })
    }

    /// Lets `probe` see every change.
    #[cfg(feature = "testing")]
    pub(crate) fn set_probe(&mut self, probe: Arc<dyn Probe>) {
        self.probe = Some(probe);
    }

    /// What it was opened by, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has the size that it has.
    pub(crate) fn is_block_device(&self) -> bool {
        self.is_block_device
    }

    /// What offsets and lengths of data must be multiples of, in bytes: 1 unless it is opened with O_DIRECT.
    pub(crate) fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Bytes in the file. Where another machine has it, it is not asked: nobody else changes the file, as its locks say.
    ///
    /// # Errors
    /// What the host said.
    pub(crate) fn len(&self) -> io::Result<u64> {
        if self.is_block_device {
            return Ok(seek(&self.cached, SeekFrom::End(0))?);
        }
        let flags = match self.threads {
            None => AtFlags::EMPTY_PATH,
            Some(_) => AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC,
        };
        Ok(statx(&self.cached, c"", flags, StatxFlags::SIZE)?.stx_size)
    }

    /// Runs `call`, which asks the host.
    ///
    /// # Errors
    /// What the host said.
    async fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(&File) -> rustix::io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let file = self.cached.clone();
        let call = move || call(&file);
        Ok(match &self.threads {
            None => file_io::run(&self.calls, call).await,
            Some(threads) => threads.run(call).await,
        }??)
    }

    /// What the host knows of it.
    ///
    /// # Errors
    /// What the host said.
    pub(crate) async fn stat(&self) -> io::Result<Stat> {
        let stat = match self.threads {
            None => fstat(&self.cached)?,
            Some(_) => self.ask(|file| fstat(file)).await?,
        };
        let allocated =
            if self.is_block_device { self.len()? } else { stat.st_blocks.cast_unsigned() * 512 };
        let time = |sec, nsec| Timestamp { sec, nsec: u32::try_from(nsec).unwrap_or_default() };
        Ok(Stat {
            allocated,
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        })
    }

    /// Adds `len` bytes from `offset` on to `out`, fewer where the file ends.
    ///
    /// # Errors
    /// What the host said when nothing could be read.
    pub(crate) async fn read(
        &self,
        out: OutBuf,
        len: usize,
        offset: u64,
        way: Way,
    ) -> io::Result<OutBuf> {
        file_io::read_part(self.way(way), out, len, offset).await
    }

    /// Writes the first `len` bytes of `data` to `offset`; less only when an error followed. The rest of `data` comes
    /// back.
    ///
    /// # Errors
    /// What the host said when nothing could be written.
    pub(crate) async fn write(
        &self,
        data: InBuf,
        len: usize,
        offset: u64,
        way: Way,
    ) -> io::Result<(usize, InBuf)> {
        let op = self.watch(|| HostOp::Write { offset, data: data.to_vec()[..len].to_vec() })?;
        op.end(file_io::write_part(self.way(way), data, len, offset).await)
    }

    /// `len` bytes from `offset` on, fewer where the file ends; through the page cache.
    ///
    /// # Errors
    /// What the host said, also when it could read a part.
    pub(crate) async fn read_bytes(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let now = (len - bytes.len()).min(BYTES_MAX);
            let room = OutBuf::new(&self.pool, now);
            let part = self.read(room, now, offset + bytes.len() as u64, Way::Cached).await?;
            let part = part.finish();
            if part.is_empty() {
                break;
            }
            bytes.extend_from_slice(part.as_host_bytes());
        }
        Ok(bytes)
    }

    /// The same, and zeroes for what is behind the end.
    ///
    /// # Errors
    /// What the host said, also when it could read a part.
    pub(crate) async fn read_padded(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = self.read_bytes(offset, len).await?;
        bytes.resize(len, 0);
        Ok(bytes)
    }

    /// Writes all of `bytes` to `offset`, through the page cache.
    ///
    /// # Errors
    /// What the host said: a part may be written then.
    pub(crate) async fn write_bytes(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let part = &bytes[done..bytes.len().min(done + BYTES_MAX)];
            let data = InBuf::copied(&self.pool, part);
            let (written, _) =
                self.write(data, part.len(), offset + done as u64, Way::Cached).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += written;
        }
        Ok(())
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// What the host said: also the error of an earlier write that it noticed late. The kernel tells it once, and takes
    /// the pages that were not written for clean: so nothing is durable from then on, and every later call fails
    /// likewise. QEMU keeps it so (`page_cache_inconsistent` in `block/file-posix.c`).
    pub(crate) async fn sync(&self) -> io::Result<()> {
        self.syncs.join(async || self.sync_now().await).await
    }

    async fn sync_now(&self) -> io::Result<()> {
        // One at a time: of several at once the kernel tells only one of the error.
        let mut failed = self.failed_sync.lock().await;
        if let Some(errno) = *failed {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let result = match self.watch(|| HostOp::Sync) {
            Ok(op) => op.end(file_io::fsync(&self.cached, SyncKind::Data).await),
            Err(injected) => Err(injected),
        };
        if let Err(error) = &result {
            *failed = Some(error.raw_os_error().unwrap_or(libc::EIO));
        }
        result
    }

    /// Gives the file `len` bytes: what is new reads as zeroes.
    ///
    /// # Errors
    /// What the host said; EINVAL for a block device, which has the size it has.
    pub(crate) async fn set_len(&self, len: u64) -> io::Result<()> {
        let op = self.watch(|| HostOp::SetLen(len))?;
        if self.threads.is_none() && self.frees_much(len) {
            let file = self.cached.clone();
            let done = file_io::aside(move || ftruncate(&file, len)).await;
            return op.end(done.and_then(|done| Ok(done?)));
        }
        op.end(self.ask(move |file| ftruncate(file, len)).await)
    }

    /// Whether cutting the file to `len` bytes takes long. Where calls wait, they do so on another thread anyway.
    fn frees_much(&self, len: u64) -> bool {
        let allocated =
            || Ok::<u64, rustix::io::Errno>(fstat(&self.cached)?.st_blocks.cast_unsigned() * 512);
        self.calls.is_quick()
            && allocated().is_ok_and(|allocated| allocated.saturating_sub(len) > LONG_TO_FREE)
    }

    /// Gives `offset..offset + len` space, and the file the length for it.
    ///
    /// # Errors
    /// What the host said; EOPNOTSUPP where it cannot.
    pub(crate) async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let op = self.watch(|| HostOp::Allocate { offset, len })?;
        op.end(file_io::fallocate(&self.cached, 0, offset, len).await)
    }

    /// Makes `offset..offset + len` read as zeroes. The file keeps its length. Where the host cannot keep the space of a
    /// range, it is given back.
    ///
    /// # Errors
    /// What the host said.
    pub(crate) async fn zero(&self, offset: u64, len: u64, how: Zeroing) -> io::Result<()> {
        let op = self.watch(|| HostOp::Zero { offset, len })?;
        op.end(self.zero_by(how, offset, len).await)
    }

    /// Gives space back: `offset..offset + len` reads as zeroes, or as before where the host cannot.
    ///
    /// # Errors
    /// What the host said.
    pub(crate) async fn give_back(&self, offset: u64, len: u64) -> io::Result<()> {
        let op = self.watch(|| HostOp::Zero { offset, len })?;
        let mode = (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE).bits();
        op.end(match file_io::fallocate(&self.cached, mode, offset, len).await {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            result => result,
        })
    }

    async fn zero_by(&self, how: Zeroing, offset: u64, len: u64) -> io::Result<()> {
        // What has no ZERO_RANGE can have holes (tmpfs): written zeroes could fill it.
        let modes = match how {
            Zeroing::Free => &[FallocateFlags::PUNCH_HOLE][..],
            Zeroing::Keep => &[FallocateFlags::ZERO_RANGE, FallocateFlags::PUNCH_HOLE],
        };
        for &mode in modes {
            let mode = (mode | FallocateFlags::KEEP_SIZE).bits();
            match file_io::fallocate(&self.cached, mode, offset, len).await {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                result => return result,
            }
        }
        self.write_zeroes(offset, len).await
    }

    async fn write_zeroes(&self, mut offset: u64, len: u64) -> io::Result<()> {
        let end = offset + len;
        while offset < end {
            let now = (end - offset).min(ZEROES_MAX) as usize;
            let mut zeroes = OutBuf::new(&self.pool, now);
            zeroes.append_zeroes(now).map_err(|_| io::ErrorKind::OutOfMemory)?;
            let zeroes = InBuf::copied(&self.pool, zeroes.finish().as_host_bytes());
            let (written, _) = file_io::write_part(&self.cached, zeroes, now, offset).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += written as u64;
        }
        Ok(())
    }

    /// The first byte from `offset` on that is data, or in a hole; `None` where there is none before the end.
    ///
    /// # Errors
    /// What the host said.
    pub(crate) async fn seek(&self, offset: u64, what: Seek) -> io::Result<Option<u64>> {
        if self.is_block_device {
            // It does not tell what is in use.
            return Ok((what == Seek::Data).then_some(offset));
        }
        let to = match what {
            Seek::Data => SeekFrom::Data(offset),
            Seek::Hole => SeekFrom::Hole(offset),
        };
        match self.ask(move |file| seek(file, to)).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn way(&self, way: Way) -> &File {
        match way {
            Way::Data => &self.data,
            Way::Cached => &self.cached,
        }
    }

    fn watch(&self, op: impl FnOnce() -> HostOp) -> io::Result<Watched<'_>> {
        let Some(probe) = self.probe.as_deref() else { return Ok(Watched(None)) };
        Ok(Watched(Some((probe, probe.before(&op())?))))
    }
}

/// Through which descriptor data goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// As the image was opened.
    Data,
    /// Through the page cache: for metadata, and for what is not aligned for O_DIRECT, when nothing else runs.
    Cached,
}

/// An operation that a probe may see the end of.
struct Watched<'a>(Option<(&'a dyn Probe, u64)>);

impl Watched<'_> {
    fn end<T>(self, result: io::Result<T>) -> io::Result<T> {
        if let Some((probe, number)) = self.0 {
            probe.after(number, result.is_ok());
        }
        result
    }
}

impl AsFd for HostFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.cached.as_fd()
    }
}

impl fmt::Debug for HostFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostFile").field(&self.path).finish()
    }
}

/// Whether `place` is a block device; an error unless it is that or a regular file.
fn is_block_device(place: &OwnedFd, path: &Path) -> Result<bool, OpenError> {
    let cannot =
        |error: rustix::io::Errno| OpenError::Open { path: path.to_owned(), cause: error.into() };
    let what = match FileType::from_raw_mode(fstat(place).map_err(cannot)?.st_mode) {
        FileType::RegularFile => return Ok(false),
        FileType::BlockDevice => return Ok(true),
        FileType::Directory => "a directory",
        FileType::CharacterDevice => "a character device",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        _ => "something else",
    };
    Err(OpenError::NotAnImage { path: path.to_owned(), what })
}

/// What O_DIRECT asks of offsets and lengths, in bytes.
fn direct_alignment(file: &OwnedFd) -> u32 {
    const USUAL: u32 = 4096;
    let Ok(found) = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else {
        return USUAL;
    };
    let told = found.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && found.stx_dio_offset_align != 0;
    if told { found.stx_dio_offset_align } else { USUAL }
}
