//! Reading and writing.

use std::io;

use fsrv::{
    Context, Errno, Fh, NodeId, Result,
    op::{Read, Write},
};
use fsrv_transport::{
    io::{self as file_io, SyncKind, WriteAt},
    mem::Filled,
};

use crate::{filesystem::Passthrough, suid::Changer, sys::creds::Caller};

const O_APPEND: u32 = 0o2000;

pub(crate) async fn read(fs: &Passthrough, op: Read) -> Result<Filled> {
    let handle = fs.shared().handle(op.nodeid, op.fh)?;
    Ok(file_io::preadv2(&handle.file, op.out, op.offset).await?)
}

pub(crate) async fn write(fs: &Passthrough, cx: &Context, op: Write) -> Result<u32> {
    let handle = fs.shared().handle(op.nodeid, op.fh)?;
    let (inode, changer) = (&handle.inode, Changer::by_flag(cx, op.kill_suidgid));
    let left = changer.left(inode, &handle.file)?;
    // The end is the host's affair, for what a caller appends now: the client's idea of it may be old.
    // A page of a mapping has its place, whatever the descriptor was opened with.
    let appends = op.flags & O_APPEND != 0 && !op.cached && !fs.shared().config.writeback;
    let at = if appends { WriteAt::End } else { WriteAt::Offset(op.offset) };
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

pub(crate) async fn fsync(fs: &Passthrough, nodeid: NodeId, fh: Fh, data_only: bool) -> Result<()> {
    let handle = fs.shared().handle(nodeid, fh)?;
    let kind = if data_only { SyncKind::Data } else { SyncKind::All };
    Ok(file_io::fsync(&handle.file, kind).await?)
}
