//! Finding a name, and where a link leads.

use std::{io, os::fd::AsFd, sync::Arc};

use fsrv::{
    Context, Entry, Errno, LookupName, Name, NameBuf, NodeId, Result,
    op::{Lookup, ReadLink},
};
use fsrv_transport::mem::Filled;

use crate::{
    filesystem::{Memory, Passthrough},
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
    let found = match found {
        Err(Errno::EXDEV) => Box::pin(cross(fs, cx, &parent, name.to_buf())).await,
        found => found,
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

/// What is mounted at `name` in `parent`, found without asking it: the client's kernel holds locks of the parent meanwhile,
/// and others wait for those.
async fn cross(
    fs: &Passthrough,
    cx: &Context,
    parent: &Arc<Inode>,
    name: NameBuf,
) -> Result<Found> {
    let shared = fs.shared();
    let likely = shared.crossings.get(parent.nodeid, name.as_c_str());
    let (dir, point) = (parent.clone(), name.clone());
    let cross = move |shared: &Shared| shared.cross(&dir, point.as_c_str());
    let crossed = match likely {
        _ if parent.mount.is_remote() => fs.run(cx, parent, cross).await?,
        Some(mount) if mount.is_open_to_all() => cross(shared)?,
        Some(mount) => fs.run_on(cx, &mount, cross).await?,
        None => {
            let shared = fs.shared().clone();
            shared.clone().unknown.run(cx, Memory::Ours, move || cross(&shared)).await?
        }
    };
    let mount = crossed.mount.clone();
    shared.crossings.insert(parent.nodeid, name.as_c_str(), &mount);
    if mount.is_remote() && !mount.has_settled() {
        fs.run_on(cx, &mount, move |shared| shared.crossed(crossed)).await
    } else {
        Ok(shared.crossed(crossed)?)
    }
}

/// The node itself, which the client may have forgotten.
async fn lookup_again(fs: &Passthrough, cx: &Context, nodeid: NodeId) -> Result<Entry> {
    let shared = fs.shared();
    let known = shared.inodes.get(nodeid);
    let mount = match &known {
        Some(inode) => inode.mount.clone(),
        None => shared.inodes.forgotten_mount(nodeid)?,
    };
    let near = mount.clone();
    let found = fs
        .run_on(cx, &mount, move |shared| match known {
            Some(inode) => again(shared, &inode),
            None => shared.identify(shared.inodes.reopen_forgotten(nodeid)?, &near),
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
    // Up to the root there may be other mounts, which are not asked.
    let (parent, mount) = fs
        .run(cx, &child, move |shared| {
            let root = shared.inodes.root();
            let here = Stat::in_memory(shared.dir_fd(&inode)?)?;
            let top = Stat::in_memory(shared.path_fd(root)?)?;
            if is_same(&here, &top) {
                return Ok((None, root.mount.clone()));
            }
            let parent = open::find_parent(shared.dir_fd(&inode)?)?;
            check_inside(&parent, &top)?;
            let stat = Stat::in_memory(&parent)?;
            let mount = shared.mounts.of(&parent, stat.mount, Some(&inode.mount));
            Ok((Some(parent), mount))
        })
        .await?;
    let near = mount.clone();
    let found = fs
        .run_on(cx, &mount, move |shared| match parent {
            Some(parent) => shared.identify(parent, &near),
            None => again(shared, shared.inodes.root()),
        })
        .await?;
    Ok(shared.enter(found))
}

/// Somebody on the host may have moved the directory out of the shared tree.
fn check_inside(dir: impl AsFd, top: &Stat) -> io::Result<()> {
    let mut stat = Stat::in_memory(&dir)?;
    let mut fd = dir.as_fd().try_clone_to_owned()?;
    for _ in 0..DEPTH_MAX {
        if is_same(&stat, top) {
            return Ok(());
        }
        fd = open::find_parent(&fd)?;
        let above = Stat::in_memory(&fd)?;
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
