//! Reading and writing.

use std::{future::Future, io, sync::Arc};

use fsrv::{
    Context, Errno, Fh, NodeId, Result,
    op::{Read, Write},
};
use fsrv_transport::{
    io::{self as file_io, SyncKind, WriteAt},
    mem::{Filled, InBuf},
};

use crate::{
    filesystem::{Memory, Passthrough},
    handle::Handle,
    shared::Shared,
    suid::{Changer, Left},
    sys::creds::Caller,
};

const O_APPEND: u32 = 0o2000;

pub(crate) async fn read(fs: &Passthrough, cx: &Context, op: Read) -> Result<Filled> {
    let handle = fs.shared().handle(op.nodeid, op.fh)?;
    let memory = Memory::of(op.out.is_in_client());
    let read = file_io::preadv2(&handle.file, op.out, op.offset);
    match handle.inode.mount.remote() {
        None => Ok(read.await?),
        Some(remote) => Box::pin(remote.wait(cx, memory, read)).await,
    }
}

pub(crate) async fn write(fs: &Passthrough, cx: &Context, op: Write) -> Result<u32> {
    let handle = fs.shared().handle(op.nodeid, op.fh)?;
    let (inode, changer) = (&handle.inode, Changer::by_flag(cx, op.kill_suidgid));
    // The end is the host's affair, for what a caller appends now: the client's idea of it may be old.
    // A page of a mapping has its place, whatever the descriptor was opened with.
    let appends = op.flags & O_APPEND != 0 && !op.cached && !fs.shared().config.writeback;
    let at = if appends { WriteAt::End } else { WriteAt::Offset(op.offset) };
    if inode.mount.is_remote() {
        return write_remote(fs, cx, &handle, changer, (op.data, at)).await;
    }
    let left = changer.left(inode, &handle.file)?;
    let taker = inode.mount.reserve.taker(Caller::of(cx), op.data.len() as u64, &handle.file);
    let written = if taker.is_caller() || changer.keeps(inode) {
        // The ring knows one set of ids and capabilities only.
        let inode = inode.clone();
        let around = move |write: &mut dyn FnMut() -> io::Result<usize>| {
            changer.keep(&inode, || taker.run(write))
        };
        file_io::pwritev2_within(&handle.file, op.data, at, around).await
    } else {
        file_io::pwritev2(&handle.file, op.data, at).await
    };
    left.settle(fs.shared(), &handle.file, &written)?;
    u32::try_from(written?).map_err(|_| Errno::EOVERFLOW)
}

/// The same for a file of another machine or process.
async fn write_remote(
    fs: &Passthrough,
    cx: &Context,
    handle: &Arc<Handle>,
    changer: Changer,
    (data, at): (InBuf, WriteAt),
) -> Result<u32> {
    let inode = &handle.inode;
    let remote = inode.mount.remote().ok_or(Errno::EIO)?;
    let left = remote_left(fs, cx, handle, changer).await?;
    let memory = Memory::of(data.is_in_client());
    let written = if changer.keeps(inode) {
        let inode = inode.clone();
        let around =
            move |write: &mut dyn FnMut() -> io::Result<usize>| changer.keep(&inode, write);
        let write = file_io::pwritev2_within(&handle.file, data, at, around);
        Box::pin(remote.wait(cx, memory, write)).await
    } else {
        let write = file_io::pwritev2(&handle.file, data, at);
        Box::pin(remote.wait(cx, memory, write)).await
    };
    if let Some(left) = left {
        let handle = handle.clone();
        let settle = move |shared: &Shared| left.settle(shared, &handle.file, &written);
        Box::pin(fs.run(cx, inode, settle)).await?;
    }
    u32::try_from(written?).map_err(|_| Errno::EOVERFLOW)
}

/// What must be left of suid and sgid of a remote file, if it has any.
async fn remote_left(
    fs: &Passthrough,
    cx: &Context,
    handle: &Arc<Handle>,
    changer: Changer,
) -> Result<Option<Left>> {
    if !handle.inode.has_suid() {
        return Ok(None);
    }
    let (inode, handle) = (handle.inode.clone(), handle.clone());
    let look = move |_: &Shared| changer.left(&handle.inode, &handle.file);
    Box::pin(fs.run(cx, &inode, look)).await.map(Some)
}

pub(crate) async fn fsync(
    fs: &Passthrough,
    cx: &Context,
    file: (NodeId, Fh),
    data_only: bool,
) -> Result<()> {
    let handle = fs.shared().handle(file.0, file.1)?;
    let kind = if data_only { SyncKind::Data } else { SyncKind::All };
    on_remote(cx, &handle, file_io::fsync(&handle.file, kind)).await
}

/// Awaits a change of the file of `handle`, as one request among others where it is remote.
pub(crate) async fn on_remote<T>(
    cx: &Context,
    handle: &Handle,
    change: impl Future<Output = io::Result<T>>,
) -> Result<T> {
    match handle.inode.mount.remote() {
        None => Ok(change.await?),
        Some(remote) => Box::pin(remote.wait(cx, Memory::Ours, change)).await,
    }
}
