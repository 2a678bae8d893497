//! Attributes.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use fsrv::{
    Attr, Attributes, Context, Fh, NodeId, Result,
    op::{GetAttr, GetStatx, SetAttr},
    types::Statx,
};
use fsrv_transport::io::LONG_TO_FREE;
use rustix::fs::OFlags;

use crate::{
    filesystem::Passthrough,
    handle::Handle,
    inode::Inode,
    shared::{PathFd, Shared},
    suid::Changer,
    sys::{creds::keeping_suid, meta, stat::Stat},
};

/// A known file, by an open handle where the client named one.
pub(crate) struct Target {
    pub(crate) inode: Arc<Inode>,
    handle: Option<Arc<Handle>>,
}

/// A descriptor of a [`Target`].
enum TargetFd<'t> {
    Handle(BorrowedFd<'t>),
    Path(PathFd<'t>),
}

impl AsFd for TargetFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Handle(fd) => fd.as_fd(),
            Self::Path(fd) => fd.as_fd(),
        }
    }
}

impl Target {
    fn new(fs: &Passthrough, nodeid: NodeId, fh: Option<Fh>) -> Result<Self> {
        let shared = fs.shared();
        let handle = fh.map(|fh| shared.handle(nodeid, fh)).transpose()?;
        let inode = match &handle {
            Some(handle) => handle.inode.clone(),
            None => shared.inode(nodeid)?,
        };
        Ok(Self { inode, handle })
    }

    fn fd<'t>(&'t self, shared: &Shared) -> io::Result<TargetFd<'t>> {
        match &self.handle {
            Some(handle) => Ok(TargetFd::Handle(handle.file.as_fd())),
            None => shared.path_fd(&self.inode).map(TargetFd::Path),
        }
    }
}

pub(crate) async fn getattr(fs: &Passthrough, cx: &Context, op: GetAttr) -> Result<Attributes> {
    let (inode, stat) = stat(fs, cx, op.nodeid, op.fh).await?;
    Ok(fs.shared().attributes(&inode, &stat))
}

pub(crate) async fn statx(fs: &Passthrough, cx: &Context, op: GetStatx) -> Result<Statx> {
    let (inode, stat) = stat(fs, cx, op.nodeid, op.fh).await?;
    let Attributes { attr, ttl } = fs.shared().attributes(&inode, &stat);
    Ok(Statx {
        attr,
        btime: stat.btime,
        attributes: stat.attributes,
        attributes_mask: stat.attributes_mask,
        ttl,
    })
}

async fn stat(
    fs: &Passthrough,
    cx: &Context,
    nodeid: NodeId,
    fh: Option<Fh>,
) -> Result<(Arc<Inode>, Stat)> {
    let target = Target::new(fs, nodeid, fh)?;
    let inode = target.inode.clone();
    let stat = fs.run(cx, &inode, move |shared| Stat::of(target.fd(shared)?)).await?;
    Ok((inode, stat))
}

pub(crate) async fn setattr(fs: &Passthrough, cx: &Context, op: SetAttr) -> Result<Attributes> {
    let target = Target::new(fs, op.nodeid, op.fh)?;
    let inode = target.inode.clone();
    let by = By {
        uid: cx.uid,
        gid: cx.gid,
        changer: Changer::by_uid(cx),
        truncates: Changer::by_flag(cx, op.kill_suidgid),
    };
    let is_long = frees_much(fs.shared(), &target, op.size);
    let change = move |shared: &Shared| {
        let fd = target.fd(shared)?;
        change(shared, &target, fd.as_fd(), by, &op)?;
        Stat::of(fd)
    };
    let stat = match is_long {
        true => fs.run_aside(change).await,
        false => fs.run_with_room(cx, &inode, change).await,
    }?;
    Ok(fs.shared().attributes(&inode, &stat))
}

/// Who asks for a change.
#[derive(Clone, Copy)]
struct By {
    uid: u32,
    gid: u32,
    changer: Changer,
    /// The same for its size, where the request says it.
    truncates: Changer,
}

impl By {
    /// Whether somebody who is not the owner may write, as far as mode and ids tell.
    fn may_write(&self, attr: &Attr) -> bool {
        let needed = if self.gid == attr.gid { 0o020 } else { 0o002 };
        attr.mode & needed != 0
    }
}

/// Whether cutting the file to `size` takes long.
fn frees_much(shared: &Shared, target: &Target, size: Option<u64>) -> bool {
    let Some(size) = size.filter(|_| !target.inode.mount.is_remote()) else { return false };
    let stat = target.fd(shared).and_then(Stat::of);
    stat.is_ok_and(|stat| stat.attr.blocks.saturating_sub(size / 512) > LONG_TO_FREE / 512)
}

fn change(
    shared: &Shared,
    target: &Target,
    fd: BorrowedFd<'_>,
    by: By,
    op: &SetAttr,
) -> io::Result<()> {
    let times = op.atime.is_some() || op.mtime.is_some() || op.ctime.is_some();
    let ids = op.uid.is_some() || op.gid.is_some();
    if !ids && !times && op.mode.is_none() && op.size.is_none() {
        return touch(shared, target, fd, by);
    }
    if ids {
        let invalid = [op.uid, op.gid].contains(&Some(u32::MAX));
        if invalid {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let chown = || meta::chown(fd, op.uid, op.gid);
        // The host takes suid and sgid from everybody, but for a sgid without group execution.
        by.changer.run(shared, &target.inode, fd, chown)?;
    }
    // After the owner: a change of that clears suid.
    if let Some(mode) = op.mode {
        let chmod = || meta::chmod(shared.proc_fd(), fd, mode & 0o7777);
        // The client's kernel has decided about sgid.
        if mode & 0o6000 != 0 { keeping_suid(chmod)? } else { chmod()? }
    }
    if let Some(size) = op.size {
        let truncate = || truncate(shared, target, size);
        by.truncates.run(shared, &target.inode, fd, truncate)?;
    }
    if op.atime.is_some() || op.mtime.is_some() {
        meta::set_times(fd, op.atime, op.mtime)?;
    }
    // The host's clock alone sets the time of this change.
    Ok(())
}

/// `chown(-1, -1)` changes nothing but the time of change, and clears suid. What the client's kernel sends
/// before a change by whoever may not keep suid looks the same: it learns of the mode by this answer, before the
/// content is another. So of those who are not the owner, who has the file open for writing may do it too. Nobody else
/// gets an error, but nothing is changed for them.
fn touch(shared: &Shared, target: &Target, fd: BorrowedFd<'_>, by: By) -> io::Result<()> {
    let (inode, stat) = (&target.inode, Stat::of(fd)?);
    inode.saw(&stat);
    let attr = stat.attr;
    let clears = attr.mode & 0o6000 != 0 && attr.file_type() != Attr::DIRECTORY;
    let may_write = inode.has_writers() && by.may_write(&attr);
    if clears && by.uid != 0 && by.uid != attr.uid && !may_write {
        return Ok(());
    }
    by.changer.run(shared, inode, fd, || meta::chown(fd, None, None))
}

/// By the handle when it may write; the client's kernel has checked that the caller may.
fn truncate(shared: &Shared, target: &Target, size: u64) -> io::Result<()> {
    if !target.inode.is_regular() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    if let Some(handle) = &target.handle
        && rustix::fs::ftruncate(&handle.file, size).is_ok()
    {
        return Ok(());
    }
    let fd = shared.open(&target.inode, OFlags::WRONLY)?;
    Ok(rustix::fs::ftruncate(fd, size)?)
}
