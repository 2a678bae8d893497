//! Names: more of them, other ones, and fewer.

use std::{io, os::fd::AsFd, sync::Arc, time::Duration};

use fsrv::{
    Context, Entry, Errno, NameBuf, NodeId, Result,
    op::{Link, Rename, RmDir, Unlink},
};
use rustix::fs::{AtFlags, RenameFlags};
use tokio::time::sleep;

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
    check_same_mount(&inode, &parent)?;
    let (name, dir) = (op.new_name.to_buf(), parent.clone());
    let found = fs
        .run_with_room(cx, &parent, move |shared| {
            let fd = shared.path_fd(&inode)?;
            open::link(shared.proc_fd(), &fd, shared.dir_fd(&dir)?, name.as_c_str())?;
            shared.identify(fd.as_fd().try_clone_to_owned()?, &inode.mount)
        })
        .await?;
    Ok(fs.shared().enter(found))
}

/// Names of one file are on one mount. The host says the same, but a call that asks two mounts may hang for either.
fn check_same_mount(a: &Inode, b: &Inode) -> Result<()> {
    if a.mount.id == b.mount.id { Ok(()) } else { Err(Errno::EXDEV) }
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
    check_same_mount(&from, &to)?;
    let (name, new_name) = (op.name.to_buf(), op.new_name.to_buf());
    let flags = RenameFlags::from_bits_retain(op.flags);
    let (parent, place) = (from.clone(), Place { dir: to.clone(), name: new_name.clone() });
    let rename = move |shared: &Shared| {
        let (from, to) = (shared.dir_fd(&from)?, shared.dir_fd(&to)?);
        let (name, new_name) = (name.as_c_str(), new_name.as_c_str());
        Ok(rustix::fs::renameat_with(from, name, to, new_name, flags)?)
    };
    let caller = flags.contains(RenameFlags::WHITEOUT).then(|| Caller::of(cx));
    let rename = move |shared: &Shared| match caller {
        // What stays behind is made by the caller.
        Some(caller) => with_credentials(caller, 0, |_| rename(shared)),
        None => rename(shared),
    };
    if flags.intersects(RenameFlags::EXCHANGE | RenameFlags::NOREPLACE) {
        return fs.run_with_room(cx, &parent, rename).await;
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
    change: impl Fn(&Shared) -> io::Result<()> + Send + 'static,
) -> Result<()> {
    let dir = place.dir.clone();
    let mut remove = move |shared: &Shared| {
        let Some(leaving) = shared.leaving(&place.dir, place.name.as_c_str()) else {
            return Ok(Vacated::TooManyLeave);
        };
        shared.remove(leaving, || change(shared)).map(|()| Vacated::Done)
    };
    loop {
        let descriptors = &fs.shared().descriptors;
        let before = descriptors.freed();
        let done;
        (done, remove) = fs.run_again(cx, &dir, remove).await?;
        match done? {
            Vacated::Done => return Ok(()),
            Vacated::TooManyLeave if descriptors.closer().has_freed_since(before).await => {}
            // They are about to be removed.
            Vacated::TooManyLeave => sleep(SOON).await,
        }
    }
}

/// How long a removal takes that only takes a name away.
const SOON: Duration = Duration::from_millis(1);

/// What became of a removal.
enum Vacated {
    Done,
    /// Nothing: it is large, and as many as there may be wait to be closed.
    TooManyLeave,
}
