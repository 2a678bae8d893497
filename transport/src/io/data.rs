//! Reads and writes: inline what needs no waiting, the rest on the engine.

use std::{
    future::Future,
    io,
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use io_uring::{opcode, squeue, types};

use super::{
    File,
    closer::is_no_room,
    engine,
    pool::timed,
    ring,
    sys::{self, APPEND, NOWAIT},
};
use crate::mem::{Filled, InBuf, OutBuf, Slices};

/// Reads from `offset` until `out` is full or the file ends.
///
/// Cached data of a buffered file is copied at once. What is not cached, and every O_DIRECT read,
/// goes to the engine.
///
/// # Errors
/// Those of `preadv2(2)`, when nothing could be read.
///
/// # Cancel safety
/// When the future is dropped, `out` stays alive until the kernel is done with it. What waits for a thread is not done.
pub async fn preadv2(file: &File, out: OutBuf, offset: u64) -> io::Result<Filled> {
    read_all(file, out, offset).await.map(OutBuf::finish)
}

/// Reads from `offset` until `len` more bytes of `out` are filled, or the file ends; the rest of its room stays free.
///
/// # Errors
/// Those of `preadv2(2)`, when nothing could be read.
///
/// # Panics
/// When `out` has less room.
///
/// # Cancel safety
/// As [`preadv2`].
pub async fn read_part(
    file: &File,
    mut out: OutBuf,
    len: usize,
    offset: u64,
) -> io::Result<OutBuf> {
    let limit = out.narrow(len);
    let mut out = read_all(file, out, offset).await?;
    out.widen(limit);
    Ok(out)
}

async fn read_all(file: &File, mut out: OutBuf, offset: u64) -> io::Result<OutBuf> {
    if let Some(bounce) = needs_bounce(file, offset, out.remaining(), || out.slices())
        .await
        .then(|| out.bounce())
        .flatten()
    {
        let filled = read_each(file, bounce, offset).await?.finish();
        engine::count_bounced(filled.len());
        out.append(filled.as_host_bytes()).expect("as much room as there was");
        return Ok(out);
    }
    read_each(file, out, offset).await
}

/// Reads as often as it takes.
async fn read_each(file: &File, mut out: OutBuf, offset: u64) -> io::Result<OutBuf> {
    // A ring takes the largest one for "where the file is".
    sys::offset(offset)?;
    let before = out.len();
    loop {
        let at = offset.saturating_add((out.len() - before) as u64);
        let step = match read_now(file, &mut out, at) {
            Some(step) => step,
            None => {
                let (step, back) = read_later(file, out, at).await;
                out = back?;
                step
            }
        };
        match step {
            Ok(n) if n == 0 || out.remaining() == 0 || ends_here(file, at, n) => break,
            Ok(_) => {}
            // What was read so far is the answer; the next read meets the error again.
            Err(_) if out.len() > before => break,
            Err(error) => return Err(error),
        }
    }
    Ok(out)
}

/// Where a write goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteAt {
    /// From this byte on; on an O_APPEND file at its end.
    Offset(u64),
    /// At the end of the file, as the host has it then.
    End,
}

impl WriteAt {
    /// Where the rest goes when `written` bytes are written, and the flags of `pwritev2(2)`.
    fn behind(self, written: usize) -> (u64, i32) {
        match self {
            Self::Offset(offset) => (offset.saturating_add(written as u64), 0),
            Self::End => (0, APPEND),
        }
    }
}

/// Writes all of `data` and returns how much that was: less than all only when an error followed.
///
/// # Errors
/// Those of `pwritev2(2)`, when nothing could be written.
///
/// # Cancel safety
/// When the future is dropped, `data` stays alive until the kernel is done with it. The write still happens, unless it waits
/// for a thread, or for the rest of its parts.
pub async fn pwritev2(file: &File, data: InBuf, at: WriteAt) -> io::Result<usize> {
    write_all(file, data, at).await.map(|(written, _)| written)
}

/// Writes the first `len` bytes of `data` to `offset`, and returns how much that was, as [`pwritev2`] does, with the
/// bytes that were not written.
///
/// # Errors
/// Those of `pwritev2(2)`, when nothing could be written.
///
/// # Cancel safety
/// As [`pwritev2`].
pub async fn write_part(
    file: &File,
    mut data: InBuf,
    len: usize,
    offset: u64,
) -> io::Result<(usize, InBuf)> {
    let end = data.narrow(len);
    let (written, mut data) = write_all(file, data, WriteAt::Offset(offset)).await?;
    data.widen(end);
    Ok((written, data))
}

/// As [`pwritev2`], on threads of the pool alone, and each system call within `around`: it calls what it is given, with the
/// rights or limits of its choice.
///
/// # Errors
/// Those of `around`, when nothing could be written.
///
/// # Cancel safety
/// As [`pwritev2`].
pub async fn pwritev2_within<A>(
    file: &File,
    mut data: InBuf,
    at: WriteAt,
    around: A,
) -> io::Result<usize>
where
    A: Fn(&mut dyn FnMut() -> io::Result<usize>) -> io::Result<usize> + Clone + Send + 'static,
{
    if let WriteAt::Offset(offset) = at
        && needs_bounce(file, offset, data.len(), || data.slices()).await
        && let Some(bounced) = data.bounced()
    {
        engine::count_bounced(bounced.len());
        data = bounced;
    }
    let (mut written, mut freed) = (0, file.freed());
    while !data.is_empty() {
        let (offset, flags) = at.behind(written);
        let (there, around) = (file.clone(), around.clone());
        let write = move || {
            let step = around(&mut || sys::pwritev2(&there, &data, offset, flags));
            (step, data)
        };
        let (step, back) = file.pool().run(write).await?;
        data = back;
        match step {
            Ok(0) => break,
            Ok(n) => {
                written += n;
                data.advance(n);
            }
            // Once.
            Err(error) if is_no_room(&error) && file.has_freed_since(freed.take()).await => {}
            Err(_) if written > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

async fn write_all(file: &File, mut data: InBuf, at: WriteAt) -> io::Result<(usize, InBuf)> {
    if let WriteAt::Offset(offset) = at
        && needs_bounce(file, offset, data.len(), || data.slices()).await
        && let Some(bounced) = data.bounced()
    {
        engine::count_bounced(bounced.len());
        let (written, _) = write_each(file, bounced, at).await?;
        data.advance(written);
        return Ok((written, data));
    }
    write_each(file, data, at).await
}

/// Writes as often as it takes.
async fn write_each(file: &File, mut data: InBuf, at: WriteAt) -> io::Result<(usize, InBuf)> {
    sys::offset(at.behind(0).0)?;
    let (mut written, mut freed) = (0, file.freed());
    while !data.is_empty() {
        let (offset, flags) = at.behind(written);
        let step = match write_now(file, &data, offset, flags) {
            Some(step) => step,
            None => {
                let (step, back) = write_later(file, data, offset, flags).await;
                data = back?;
                step
            }
        };
        match step {
            Ok(0) => break,
            Ok(n) => {
                written += n;
                data.advance(n);
            }
            // Once.
            Err(error) if is_no_room(&error) && file.has_freed_since(freed.take()).await => {}
            Err(_) if written > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok((written, data))
}

/// Whether O_DIRECT would take the place in the file, but not the place in memory.
async fn needs_bounce(
    file: &File,
    offset: u64,
    len: usize,
    memory: impl FnOnce() -> Slices,
) -> bool {
    file.is_direct()
        && len > 0
        && file.direct_align().await.is_some_and(|align| {
            offset.is_multiple_of(align.offset)
                && (len as u64).is_multiple_of(align.offset)
                && !memory().are_aligned(align.memory)
        })
}

/// An O_DIRECT read that stopped inside a block has met the end, and may not go on from there.
fn ends_here(file: &File, at: u64, n: usize) -> bool {
    file.is_direct() && !(at + n as u64).is_multiple_of(512)
}

/// Reads what needs no waiting; `None` when that is nothing.
fn read_now(file: &File, out: &mut OutBuf, at: u64) -> Option<io::Result<usize>> {
    if !file.is_read_inline() || !file.nowait_read().load(Ordering::Relaxed) {
        return None;
    }
    unless_it_would_wait(file.nowait_read(), sys::preadv2(file, out, at, NOWAIT))
}

/// Writes what needs no waiting, or is known to be quick; `None` when that is nothing.
fn write_now(file: &File, data: &InBuf, at: u64, flags: i32) -> Option<io::Result<usize>> {
    if !file.is_written_inline() {
        return None;
    }
    if file.nowait_write().load(Ordering::Relaxed) {
        let result = sys::pwritev2(file, data, at, flags | NOWAIT);
        if let Some(result) = unless_it_would_wait(file.nowait_write(), result) {
            return Some(result);
        }
    }
    // The kernel would hand a buffered write that it cannot do at once to a thread of its own, which
    // costs more than the copy does while pages are to be had.
    file.write_cost().is_quick().then(|| {
        engine::count_inline();
        timed(file.write_cost(), || sys::pwritev2(file, data, at, flags))
    })
}

fn unless_it_would_wait(
    nowait: &AtomicBool,
    result: io::Result<usize>,
) -> Option<io::Result<usize>> {
    match result.as_ref().map_err(io::Error::raw_os_error) {
        Err(Some(libc::EAGAIN)) => None,
        Err(Some(libc::EOPNOTSUPP)) => {
            nowait.store(false, Ordering::Relaxed);
            None
        }
        _ => {
            engine::count_inline();
            Some(result)
        }
    }
}

/// One read on the engine. The buffer is lost only with the pool itself.
async fn read_later(
    file: &File,
    mut out: OutBuf,
    at: u64,
) -> (io::Result<usize>, io::Result<OutBuf>) {
    if file.takes_ring() && is_offset(at) {
        let (result, (mut back, _, _)) = read_on_ring(file.clone(), out, at).await;
        if !ring::is_refused(&result) {
            let result = result.map(|n| n as usize).inspect(|&n| back.advance(n));
            return (result, Ok(back));
        }
        out = back;
    }
    let (pool, file) = (file.pool(), file.clone());
    let read = pool.run(move || {
        let result = sys::preadv2(&file, &mut out, at, 0);
        (result, out)
    });
    split(read.await)
}

fn read_on_ring(
    file: File,
    mut out: OutBuf,
    at: u64,
) -> impl Future<Output = (io::Result<u32>, (OutBuf, File, Slices))> {
    let (fd, room) = (types::Fd(file.as_raw_fd()), out.slices());
    let entry = match &room {
        Slices::One(one) => {
            opcode::Read::new(fd, one.iov_base.cast(), len32(one)).offset(at).build()
        }
        Slices::Many(many) => {
            opcode::Readv::new(fd, many.as_ptr(), room.count32()).offset(at).build()
        }
    };
    // SAFETY: `out` owns the room and `file` the descriptor, and they are given along with the
    // list of addresses, which is on the heap.
    unsafe { ring::submit((out, file, room), entry) }
}

/// One write on the engine. The buffer is lost only with the pool itself.
async fn write_later(
    file: &File,
    mut data: InBuf,
    at: u64,
    flags: i32,
) -> (io::Result<usize>, io::Result<InBuf>) {
    if file.takes_ring() && is_offset(at) {
        let start = Instant::now();
        let (result, (back, _, _)) = write_on_ring(file.clone(), data, at, flags).await;
        if !ring::is_refused(&result) {
            if file.is_written_inline() {
                file.write_cost().record(start.elapsed());
            }
            return (result.map(|n| n as usize), Ok(back));
        }
        data = back;
    }
    let (pool, file) = (file.pool(), file.clone());
    let cost = file.is_written_inline().then(|| file.write_cost().clone());
    let write = pool.run(move || {
        let call = || sys::pwritev2(&file, &data, at, flags);
        let result = match cost {
            Some(cost) => timed(&cost, call),
            None => call(),
        };
        (result, data)
    });
    split(write.await)
}

fn write_on_ring(
    file: File,
    data: InBuf,
    at: u64,
    flags: i32,
) -> impl Future<Output = (io::Result<u32>, (InBuf, File, Slices))> {
    let (fd, bytes) = (types::Fd(file.as_raw_fd()), data.slices());
    // A write into the cache is made when it is submitted, and would wait for the disk there.
    let on_thread = !file.is_direct() && !file.is_written_inline();
    let how = if on_thread { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
    let entry = match &bytes {
        Slices::One(one) => opcode::Write::new(fd, one.iov_base.cast(), len32(one))
            .offset(at)
            .rw_flags(flags)
            .build(),
        Slices::Many(many) => opcode::Writev::new(fd, many.as_ptr(), bytes.count32())
            .offset(at)
            .rw_flags(flags)
            .build(),
    };
    // SAFETY: `data` owns the bytes and `file` the descriptor, and they are given along with the
    // list of addresses, which is on the heap.
    unsafe { ring::submit((data, file, bytes), entry.flags(how)) }
}

/// Whether `at` is an offset to io_uring too, which takes the last number for "where the file is".
fn is_offset(at: u64) -> bool {
    i64::try_from(at).is_ok()
}

/// The length as io_uring counts it.
fn len32(slice: &libc::iovec) -> u32 {
    u32::try_from(slice.iov_len).unwrap_or(u32::MAX)
}

fn split<B>(done: io::Result<(io::Result<usize>, B)>) -> (io::Result<usize>, io::Result<B>) {
    match done {
        Ok((result, buffer)) => (result, Ok(buffer)),
        Err(lost) => (Ok(0), Err(lost)),
    }
}
