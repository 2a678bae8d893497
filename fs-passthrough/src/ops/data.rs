//! Reading and writing.

use fsrv::{
    Context, Errno, Fh, NodeId, Result,
    op::{Read, Write},
};
use fsrv_transport::{
    io::{self as file_io, SyncKind, WriteAt},
    mem::Filled,
};

use crate::{filesystem::Passthrough, sys::creds::keeping_suid};

const O_APPEND: u32 = 0o2000;

pub(crate) async fn read(fs: &Passthrough, op: Read) -> Result<Filled> {
    let handle = fs.shared().handle(op.nodeid, op.fh)?;
    Ok(file_io::preadv2(&handle.file, op.out, op.offset).await?)
}

pub(crate) async fn write(fs: &Passthrough, _: &Context, op: Write) -> Result<u32> {
    let handle = fs.shared().handle(op.nodeid, op.fh)?;
    let keeps_suid = handle.inode.has_suid() && !op.kill_suidgid;
    let mode = if keeps_suid { suid_mode(&handle.file) } else { None };
    // The end is the host's affair, for what a caller appends now: the client's idea of it may be old.
    // A page of a mapping has its place, whatever the descriptor was opened with.
    let appends = op.flags & O_APPEND != 0 && !op.cached && !fs.shared().config.writeback;
    let at = if appends { WriteAt::End } else { WriteAt::Offset(op.offset) };
    let written = file_io::pwritev2(&handle.file, op.data, at).await?;
    if let Some(mode) = mode {
        // The writer may keep suid, and the worker has lost it: the data may have gone through the
        // ring, which knows one set of capabilities only.
        keeping_suid(|| Ok(rustix::fs::fchmod(&handle.file, mode)?))?;
    }
    u32::try_from(written).map_err(|_| Errno::EOVERFLOW)
}

/// The permissions of a file that has suid or sgid.
fn suid_mode(file: &file_io::File) -> Option<rustix::fs::Mode> {
    let stat = rustix::fs::fstat(file).ok()?;
    let mode = rustix::fs::Mode::from_raw_mode(stat.st_mode);
    mode.intersects(rustix::fs::Mode::SUID | rustix::fs::Mode::SGID).then_some(mode)
}

pub(crate) async fn fsync(fs: &Passthrough, nodeid: NodeId, fh: Fh, data_only: bool) -> Result<()> {
    let handle = fs.shared().handle(nodeid, fh)?;
    let kind = if data_only { SyncKind::Data } else { SyncKind::All };
    Ok(file_io::fsync(&handle.file, kind).await?)
}
