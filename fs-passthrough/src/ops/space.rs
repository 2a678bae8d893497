//! Space: of files, and of the filesystem.

use std::{sync::Arc, time::Duration};

use fsrv::{
    Context, Errno, Result,
    op::{CopyFileRange, Fallocate, GetStatFs, Lseek, SyncFs},
    types::StatFs,
};
use fsrv_transport::io as file_io;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, copy_file_range as copy_range};
use tokio::time::timeout;

use super::data::on_remote;
use crate::{
    filesystem::Passthrough, inode::Inode, shared::Shared, suid::Changer, sys::creds::Caller,
};

/// The most bytes copied by one request: callers come again for the rest, and may give up between.
const COPY_MAX: u64 = 1 << 30;

/// FALLOC_FL bits that the host is asked for.
const MODES: FallocateFlags = FallocateFlags::KEEP_SIZE
    .union(FallocateFlags::PUNCH_HOLE)
    .union(FallocateFlags::COLLAPSE_RANGE)
    .union(FallocateFlags::ZERO_RANGE)
    .union(FallocateFlags::INSERT_RANGE)
    .union(FallocateFlags::UNSHARE_RANGE);

const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

pub(crate) async fn fallocate(fs: &Passthrough, cx: &Context, op: Fallocate) -> Result<()> {
    let handle = fs.shared().handle(op.nodeid, op.fh)?;
    let mode = FallocateFlags::from_bits_retain(op.mode);
    if !MODES.contains(mode) {
        return Err(Errno::EOPNOTSUPP);
    }
    let taker = handle.inode.mount.reserve.taker(Caller::of(cx), op.length, &handle.file);
    // The ring knows one set of ids and capabilities only.
    if handle.inode.has_suid() || taker.is_caller() {
        let (inode, changer) = (handle.inode.clone(), Changer::by_uid(cx));
        let change = move |shared: &Shared| {
            let allocate = || Ok(rustix::fs::fallocate(&handle.file, mode, op.offset, op.length)?);
            changer.run(shared, &handle.inode, &handle.file, || taker.run(allocate))
        };
        return fs.run_with_room(cx, &inode, change).await;
    }
    let change = file_io::fallocate(&handle.file, op.mode, op.offset, op.length);
    on_remote(cx, &handle, change).await
}

pub(crate) async fn lseek(fs: &Passthrough, cx: &Context, op: Lseek) -> Result<u64> {
    if fs.shared().config.writeback {
        // The host does not have what the client has yet to write: it would call that a hole. The client's kernel then
        // takes all of a file for data.
        return Err(Errno::ENOSYS);
    }
    let handle = fs.shared().handle(op.nodeid, op.fh)?;
    let to = match op.whence {
        SEEK_DATA => SeekFrom::Data(op.offset),
        SEEK_HOLE => SeekFrom::Hole(op.offset),
        _ => return Err(Errno::EINVAL),
    };
    let inode = handle.inode.clone();
    fs.run(cx, &inode, move |_| Ok(rustix::fs::seek(&handle.file, to)?)).await
}

pub(crate) async fn copy_file_range(
    fs: &Passthrough,
    cx: &Context,
    op: CopyFileRange,
) -> Result<u64> {
    let shared = fs.shared();
    if op.flags != 0 {
        return Err(Errno::EINVAL);
    }
    let from = shared.handle(op.nodeid_in, op.fh_in)?;
    let to = shared.handle(op.nodeid_out, op.fh_out)?;
    let len = usize::try_from(op.len.min(COPY_MAX)).map_err(|_| Errno::EINVAL)?;
    let (caller, changer) = (Caller::of(cx), Changer::by_uid(cx));
    let inode = one_that_may_hang(&from.inode, &to.inode)?.clone();
    fs.run_with_room(cx, &inode, move |shared| {
        let (mut offset_in, mut offset_out) = (op.offset_in, op.offset_out);
        let (offset_in, offset_out) = (Some(&mut offset_in), Some(&mut offset_out));
        let copy = || Ok(copy_range(&from.file, offset_in, &to.file, offset_out, len)?);
        let taker = to.inode.mount.reserve.taker(caller, len as u64, &to.file);
        Ok(changer.run(shared, &to.inode, &to.file, || taker.run(copy))? as u64)
    })
    .await
}

/// Whose mount is charged for what asks both.
///
/// # Errors
/// EXDEV when both may hang: the client then copies by reading and writing, and each waits for its own.
fn one_that_may_hang<'i>(from: &'i Arc<Inode>, to: &'i Arc<Inode>) -> Result<&'i Arc<Inode>> {
    match (from.mount.is_remote(), to.mount.is_remote()) {
        (true, true) if from.mount.id != to.mount.id => Err(Errno::EXDEV),
        (true, false) => Ok(from),
        _ => Ok(to),
    }
}

/// How long statfs waits for the space of what was removed before.
const FREED_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn statfs(fs: &Passthrough, cx: &Context, op: GetStatFs) -> Result<StatFs> {
    let inode = fs.shared().inode(op.nodeid)?;
    // Who removes something and then asks for room means to use it.
    let closer = fs.shared().descriptors.closer();
    let _freed_or_not = timeout(FREED_WITHIN, closer.has_freed_since(closer.now())).await;
    let file = inode.clone();
    let stat =
        fs.run(cx, &inode, move |shared| Ok(rustix::fs::fstatvfs(shared.path_fd(&file)?)?)).await?;
    let clamp = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(StatFs {
        blocks: stat.f_blocks,
        bfree: stat.f_bfree,
        bavail: stat.f_bavail,
        files: stat.f_files,
        ffree: stat.f_ffree,
        bsize: clamp(stat.f_bsize),
        namelen: clamp(stat.f_namemax),
        frsize: clamp(stat.f_frsize),
    })
}

pub(crate) async fn syncfs(fs: &Passthrough, cx: &Context, op: SyncFs) -> Result<()> {
    let inode = fs.shared().inode(op.nodeid)?;
    let file = inode.clone();
    fs.run(cx, &inode, move |shared| Ok(rustix::fs::syncfs(shared.open(&file, OFlags::RDONLY)?)?))
        .await
}
