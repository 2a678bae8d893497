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
    locks::{Host, LockRequest, Style},
    shared::Shared,
};

pub(crate) async fn getlk(fs: &Passthrough, cx: &Context, op: GetLk) -> Result<FileLock> {
    let inode = fs.shared().handle(op.nodeid, op.fh)?.inode.clone();
    let file = inode.clone();
    let get = move |shared: &Shared| {
        let open = || open_for(shared, &file, Style::Posix);
        shared.locks.getlk((op.nodeid, op.owner), op.lock, open)
    };
    if inode.mount.is_remote() {
        fs.run(cx, &inode, move |shared| Ok(get(shared))).await?
    } else {
        get(fs.shared())
    }
}

pub(crate) async fn setlk(fs: &Passthrough, cx: &Context, op: SetLk) -> Result<()> {
    let shared = fs.shared();
    let inode: Arc<Inode> = shared.handle(op.nodeid, op.fh)?.inode.clone();
    let request = LockRequest::from(&op);
    let (opener, file) = (shared.clone(), inode.clone());
    let open = move || open_for(&opener, &file, request.style);
    let host = inode.mount.remote().map_or(Host::Local, Host::Remote);
    shared.locks.setlk(cx, &request, host, open).await
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
