//! Locks.

use std::{io, os::fd::OwnedFd, sync::Arc};

use fsrv::{
    Context, Result,
    op::{GetLk, SetLk},
    types::FileLock,
};
use rustix::fs::OFlags;

use crate::{
    descriptors::{Held, Share},
    filesystem::Passthrough,
    inode::Inode,
    locks::{LockRequest, Style},
    shared::Shared,
};

pub(crate) fn getlk(fs: &Passthrough, op: GetLk) -> Result<FileLock> {
    let shared = fs.shared();
    let inode = shared.handle(op.nodeid, op.fh)?.inode.clone();
    let open = || open_for(shared, &inode, Style::Posix);
    shared.locks.getlk(op.nodeid, op.owner, op.lock, open)
}

pub(crate) async fn setlk(fs: &Passthrough, cx: &Context, op: SetLk) -> Result<()> {
    let shared = fs.shared();
    let inode: Arc<Inode> = shared.handle(op.nodeid, op.fh)?.inode.clone();
    let request = LockRequest::from(&op);
    let open = || open_for(shared, &inode, request.style);
    shared.locks.setlk(cx, &request, open).await
}

/// Opens a file to lock it on the host.
///
/// # Errors
/// ENOLCK when there are too many descriptors; what the host says.
fn open_for(shared: &Shared, inode: &Inode, style: Style) -> io::Result<Held> {
    let no_room = || io::Error::from_raw_os_error(libc::ENOLCK);
    let slot = shared.descriptors.take(Share::Locks).ok_or_else(no_room)?;
    Ok(Held::new(open(shared, inode, style)?, slot))
}

fn open(shared: &Shared, inode: &Inode, style: Style) -> io::Result<OwnedFd> {
    if style == Style::Posix && inode.is_regular() {
        match shared.open(inode, OFlags::RDWR) {
            // Somebody executes it, it is on a read-only mount, or it is not ours to write.
            Err(_) => {}
            opened => return opened,
        }
    }
    shared.open(inode, OFlags::RDONLY)
}
