//! Names: more of them, other ones, and fewer.

use std::{io, os::fd::AsFd, sync::Arc};

use fsrv::{
    Context, Entry, NameBuf, NodeId, Result,
    op::{Link, Rename, RmDir, Unlink},
};
use rustix::fs::{AtFlags, RenameFlags};

use crate::{
    filesystem::Passthrough,
    inode::Inode,
    shared::Shared,
    sys::{
        creds::{Caller, with_credentials},
        open,
    },
};

pub(crate) async fn link(fs: &Passthrough, cx: &Context, op: Link<'_>) -> Result<Entry> {
    let shared = fs.shared();
    let inode = shared.inode(op.nodeid)?;
    let parent = shared.inode(op.new_parent)?;
    let (name, dir) = (op.new_name.to_buf(), parent.clone());
    let found = fs
        .run(cx, &parent, move |shared| {
            let fd = shared.path_fd(&inode)?;
            open::link(shared.proc_fd(), &fd, shared.dir_fd(&dir)?, name.as_c_str())?;
            shared.identify(fd.as_fd().try_clone_to_owned()?, &inode.mount)
        })
        .await?;
    Ok(fs.shared().enter(found))
}

pub(crate) async fn unlink(fs: &Passthrough, cx: &Context, op: Unlink<'_>) -> Result<()> {
    remove(fs, cx, op.parent, op.name.to_buf(), AtFlags::empty()).await
}

pub(crate) async fn rmdir(fs: &Passthrough, cx: &Context, op: RmDir<'_>) -> Result<()> {
    remove(fs, cx, op.parent, op.name.to_buf(), AtFlags::REMOVEDIR).await
}

async fn remove(
    fs: &Passthrough,
    cx: &Context,
    parent: NodeId,
    name: NameBuf,
    flags: AtFlags,
) -> Result<()> {
    let dir = fs.shared().inode(parent)?;
    let place = Place { dir: dir.clone(), name: name.clone() };
    let remove = move |shared: &Shared| {
        Ok(rustix::fs::unlinkat(shared.dir_fd(&dir)?, name.as_c_str(), flags)?)
    };
    vacate(fs, cx, place, remove).await
}

pub(crate) async fn rename(fs: &Passthrough, cx: &Context, op: Rename<'_>) -> Result<()> {
    let shared = fs.shared();
    let (from, to) = (shared.inode(op.parent)?, shared.inode(op.new_parent)?);
    let (name, new_name) = (op.name.to_buf(), op.new_name.to_buf());
    let flags = RenameFlags::from_bits_retain(op.flags);
    let (parent, place) = (from.clone(), Place { dir: to.clone(), name: new_name.clone() });
    let rename = move |shared: &Shared| {
        let (from, to) = (shared.dir_fd(&from)?, shared.dir_fd(&to)?);
        let (name, new_name) = (name.as_c_str(), new_name.as_c_str());
        Ok(rustix::fs::renameat_with(from, name, to, new_name, flags)?)
    };
    if flags.contains(RenameFlags::WHITEOUT) {
        // What stays behind is made by the caller.
        let caller = Caller::of(cx);
        let rename = move |shared: &Shared| with_credentials(caller, 0, |_| rename(shared));
        return fs.run(cx, &parent, rename).await;
    }
    if flags.intersects(RenameFlags::EXCHANGE | RenameFlags::NOREPLACE) {
        return fs.run(cx, &parent, rename).await;
    }
    vacate(fs, cx, place, rename).await
}

/// A name in a directory.
struct Place {
    dir: Arc<Inode>,
    name: NameBuf,
}

/// Runs `change`, after which what had the name of `place`, if anything, no longer has it.
async fn vacate(
    fs: &Passthrough,
    cx: &Context,
    place: Place,
    change: impl FnOnce(&Shared) -> io::Result<()> + Send + 'static,
) -> Result<()> {
    let dir = place.dir.clone();
    let long = fs
        .run(cx, &dir, move |shared| {
            let leaving = shared.leaving(&place.dir, place.name.as_c_str());
            if leaving.is_long_to_free() {
                return Ok(Some((leaving, change)));
            }
            shared.remove(leaving, || change(shared)).map(|()| None)
        })
        .await?;
    match long {
        None => Ok(()),
        Some((leaving, change)) => {
            fs.run_aside(move |shared| shared.remove(leaving, || change(shared))).await
        }
    }
}
