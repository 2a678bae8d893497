//! Finding a name, and where a link leads.

use std::{io, os::fd::AsFd};

use fsrv::{
    Context, Entry, Errno, LookupName, Name, NodeId, Result,
    op::{Lookup, ReadLink},
};
use fsrv_transport::mem::Filled;

use crate::{
    filesystem::Passthrough,
    inode::{Found, Inode},
    shared::Shared,
    sys::{open, stat::Stat},
};

/// Directories are not nested deeper than paths are long.
const DEPTH_MAX: usize = 4096;

pub(crate) async fn lookup(fs: &Passthrough, cx: &Context, op: Lookup<'_>) -> Result<Entry> {
    let shared = fs.shared();
    let name = match op.name {
        LookupName::Dot => return lookup_again(fs, cx, op.parent).await,
        LookupName::DotDot => return lookup_parent(fs, cx, op.parent).await,
        LookupName::Name(name) => name,
    };
    let parent = shared.inode(op.parent)?;
    let found = match find_now(shared, cx, &parent, name) {
        Some(found) => found.map_err(Errno::from),
        None => {
            let (name, dir) = (name.to_buf(), parent.clone());
            fs.run(cx, &parent, move |shared| shared.find(&dir, name.as_c_str())).await
        }
    };
    match found {
        Ok(found) => Ok(shared.enter(found)),
        Err(Errno::ENOENT) if !shared.timeouts.negative.is_zero() => {
            Ok(Entry::negative(shared.timeouts.negative))
        }
        Err(errno) => Err(errno),
    }
}

/// Where lookups wait for the disk, those that need not are still answered at once.
fn find_now(
    shared: &Shared,
    cx: &Context,
    parent: &Inode,
    name: Name<'_>,
) -> Option<io::Result<Found>> {
    if parent.mount.cost(cx.opcode).is_quick() {
        return None;
    }
    shared.find_cached(parent, name.as_c_str())
}

/// The node itself, which the client may have forgotten.
async fn lookup_again(fs: &Passthrough, cx: &Context, nodeid: NodeId) -> Result<Entry> {
    let shared = fs.shared();
    let root = shared.inodes.root();
    let found = fs
        .run(cx, root, move |shared| {
            let root = shared.inodes.root();
            match shared.inodes.get(nodeid) {
                Some(inode) => again(shared, &inode),
                None => shared.identify(shared.inodes.reopen_forgotten(nodeid)?, &root.mount),
            }
        })
        .await?;
    Ok(shared.enter_as(found, Some(nodeid)))
}

fn again(shared: &Shared, inode: &Inode) -> io::Result<Found> {
    let fd = shared.path_fd(inode)?.as_fd().try_clone_to_owned()?;
    shared.identify(fd, &inode.mount)
}

/// The directory above; above the root there is only the root.
async fn lookup_parent(fs: &Passthrough, cx: &Context, nodeid: NodeId) -> Result<Entry> {
    let shared = fs.shared();
    let child = shared.inode(nodeid)?;
    let inode = child.clone();
    let found = fs
        .run(cx, &child, move |shared| {
            let root = shared.inodes.root();
            let here = Stat::of(shared.dir_fd(&inode)?)?;
            let top = Stat::of(shared.path_fd(root)?)?;
            if is_same(&here, &top) {
                return again(shared, root);
            }
            let parent = open::find_parent(shared.dir_fd(&inode)?)?;
            check_inside(&parent, &top)?;
            shared.identify(parent, &inode.mount)
        })
        .await?;
    Ok(shared.enter(found))
}

/// Somebody on the host may have moved the directory out of the shared tree.
fn check_inside(dir: impl AsFd, top: &Stat) -> io::Result<()> {
    let mut stat = Stat::of(&dir)?;
    let mut fd = dir.as_fd().try_clone_to_owned()?;
    for _ in 0..DEPTH_MAX {
        if is_same(&stat, top) {
            return Ok(());
        }
        fd = open::find_parent(&fd)?;
        let above = Stat::of(&fd)?;
        if is_same(&above, &stat) {
            break;
        }
        stat = above;
    }
    Err(io::Error::from_raw_os_error(libc::ESTALE))
}

fn is_same(a: &Stat, b: &Stat) -> bool {
    (a.attr.ino, a.dev, a.mount) == (b.attr.ino, b.dev, b.mount)
}

pub(crate) async fn readlink(fs: &Passthrough, cx: &Context, op: ReadLink) -> Result<Filled> {
    let inode = fs.shared().inode(op.nodeid)?;
    let link = inode.clone();
    let target = fs
        .run(cx, &inode, move |shared| {
            Ok(rustix::fs::readlinkat(shared.path_fd(&link)?, c"", Vec::new())?)
        })
        .await?;
    let mut out = op.out;
    out.append(target.to_bytes()).map_err(|_| Errno::ENAMETOOLONG)?;
    Ok(out.finish())
}
