//! Names: more of them, other ones, and fewer.

use std::os::fd::AsFd;

use fsrv::{
    Context, Entry, Result,
    op::{Link, Rename, RmDir, Unlink},
};
use rustix::fs::{AtFlags, RenameFlags};

use crate::{
    filesystem::Passthrough,
    handle::LARGE,
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
    let shared = fs.shared();
    let parent = shared.inode(op.parent)?;
    let is_large = shared.blocks_of(&parent, op.name.as_c_str()) > LARGE;
    let (name, dir) = (op.name.to_buf(), parent.clone());
    let unlink = move |shared: &Shared| {
        let (fd, name) = (shared.dir_fd(&dir)?, name.as_c_str());
        let unlink = || Ok(rustix::fs::unlinkat(fd, name, AtFlags::empty())?);
        shared.removing(&dir, name, unlink)
    };
    if is_large { fs.run_long(unlink).await } else { fs.run(cx, &parent, unlink).await }
}

pub(crate) async fn rmdir(fs: &Passthrough, cx: &Context, op: RmDir<'_>) -> Result<()> {
    let parent = fs.shared().inode(op.parent)?;
    let (name, dir) = (op.name.to_buf(), parent.clone());
    fs.run(cx, &parent, move |shared| {
        let (fd, name) = (shared.dir_fd(&dir)?, name.as_c_str());
        let rmdir = || Ok(rustix::fs::unlinkat(fd, name, AtFlags::REMOVEDIR)?);
        shared.removing(&dir, name, rmdir)
    })
    .await
}

pub(crate) async fn rename(fs: &Passthrough, cx: &Context, op: Rename<'_>) -> Result<()> {
    let shared = fs.shared();
    let parent = shared.inode(op.parent)?;
    let new_parent = shared.inode(op.new_parent)?;
    let (name, new_name) = (op.name.to_buf(), op.new_name.to_buf());
    let (dir, flags) = (parent.clone(), RenameFlags::from_bits_retain(op.flags));
    let caller = Caller::of(cx);
    fs.run(cx, &parent, move |shared| {
        let (from, to) = (shared.dir_fd(&dir)?, shared.dir_fd(&new_parent)?);
        let (name, new_name) = (name.as_c_str(), new_name.as_c_str());
        let rename = || Ok(rustix::fs::renameat_with(from, name, &to, new_name, flags)?);
        if flags.contains(RenameFlags::WHITEOUT) {
            // What stays behind is made by the caller.
            with_credentials(caller, 0, |_| rename())
        } else if flags.intersects(RenameFlags::EXCHANGE | RenameFlags::NOREPLACE) {
            rename()
        } else {
            // It may take the place of another file.
            shared.removing(&new_parent, new_name, rename)
        }
    })
    .await
}
