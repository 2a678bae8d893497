//! Opening and closing files.

use std::{io, sync::Arc, time::Duration};

use fsrv::{
    Context, Fh, Opened, Result, abi,
    op::{Flush, Open, Release},
    types::LockOwner,
};
use fsrv_transport::io::LONG_TO_FREE;
use rustix::fs::OFlags;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    config::{CachePolicy, Config},
    filesystem::Passthrough,
    handle::Handle,
    inode::Inode,
    remote::interruptible,
    shared::Shared,
    suid::Changer,
    sys::stat::Stat,
};

pub(crate) async fn open(fs: &Passthrough, cx: &Context, op: Open) -> Result<Opened> {
    let shared = fs.shared();
    let slot = shared.place_to_open()?;
    let inode = shared.inode(op.nodeid)?;
    let flags = host_flags(&shared.config, op.flags);
    let appends = OFlags::from_bits_retain(op.flags).contains(OFlags::APPEND);
    let truncates = op.truncates().then(|| Changer::by_flag(cx, op.kill_suidgid));
    let is_long = op.truncates() && frees_much(shared, &inode);
    let file = inode.clone();
    let open = move |shared: &Shared| {
        let open = || match shared.open(&file, flags) {
            // A file that can only be appended to (`chattr +a`).
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && appends => {
                shared.open(&file, flags | OFlags::APPEND)
            }
            opened => opened,
        };
        let fd = match truncates {
            Some(changer) => changer.run(shared, &file, shared.path_fd(&file)?, open)?,
            None => open()?,
        };
        let is_unchanged =
            shared.config.cache == CachePolicy::Auto && file.is_unchanged(&Stat::of(&fd)?);
        Ok((shared.file(fd, &file)?, is_unchanged))
    };
    let (file, is_unchanged) = match is_long {
        true => fs.run_aside(open).await,
        false => fs.run(cx, &inode, open).await,
    }?;
    let fh = shared.handles.insert(inode, file, flags, slot);
    Ok(opened(&shared.config, fh, is_unchanged))
}

/// The flags that the host's file is opened with.
pub(crate) fn host_flags(config: &Config, flags: u32) -> OFlags {
    let mut flags = OFlags::from_bits_retain(flags);
    // What belongs to creation, or to the client's own descriptor.
    flags.remove(OFlags::CREATE | OFlags::EXCL | OFlags::NOCTTY | OFlags::NONBLOCK);
    flags.remove(
        OFlags::PATH | OFlags::TMPFILE | OFlags::DIRECTORY | OFlags::from_bits_retain(ASYNC),
    );
    if !config.allow_direct_io {
        flags.remove(OFlags::DIRECT);
    }
    if config.writeback {
        // The client reads pages that it writes in part, and knows where the end is.
        if flags & OFlags::RWMODE == OFlags::WRONLY {
            flags = (flags - OFlags::WRONLY) | OFlags::RDWR;
        }
    }
    // Each write says whether it appends.
    flags.remove(OFlags::APPEND);
    flags
}

/// O_ASYNC: signals are the client's affair.
const ASYNC: u32 = 0o20000;

/// The answer to an open, with what the client may do with its cache.
pub(crate) fn opened(config: &Config, fh: Fh, is_unchanged: bool) -> Opened {
    let flags = match config.cache {
        CachePolicy::Never | CachePolicy::Metadata => {
            abi::FOPEN_DIRECT_IO | abi::FOPEN_PARALLEL_DIRECT_WRITES
        }
        CachePolicy::Always => abi::FOPEN_KEEP_CACHE,
        CachePolicy::Auto if is_unchanged => abi::FOPEN_KEEP_CACHE,
        CachePolicy::Auto => 0,
    };
    Opened { fh, flags }
}

pub(crate) async fn release(fs: &Passthrough, op: Release) -> Result<()> {
    let shared = fs.shared();
    let handle = shared.handle(op.nodeid, op.fh)?;
    release_locks(shared, &handle, op.fh, op.flock_owner);
    shared.handles.remove(op.fh);
    // One of another machine writes back what is cached: its own threads close it, and nobody waits for them.
    if !handle.inode.mount.is_remote() && handle.frees_much() {
        shared.removed.is_large(op.nodeid);
        shared.descriptors.closer().close(handle);
    }
    Ok(())
}

/// Drops what was locked by the handle `fh`, and the flock of `flock_owner`.
pub(crate) fn release_locks(
    shared: &Arc<Shared>,
    handle: &Handle,
    fh: Fh,
    flock_owner: Option<LockOwner>,
) {
    let nodeid = handle.inode.nodeid;
    if !shared.locks.knows(nodeid) {
        return;
    }
    let release = move |shared: &Shared| {
        if let Some(owner) = flock_owner {
            shared.locks.release_flock(nodeid, owner);
        }
        shared.locks.release_handle(nodeid, fh);
    };
    match handle.inode.mount.remote() {
        None => release(shared),
        Some(remote) => {
            let shared = shared.clone();
            remote.later(move || release(&shared));
        }
    }
}

/// Whether cutting the file to nothing takes long.
fn frees_much(shared: &Shared, inode: &Inode) -> bool {
    let stat =
        if inode.mount.is_remote() { None } else { shared.path_fd(inode).and_then(Stat::of).ok() };
    stat.is_some_and(|stat| stat.attr.blocks > LONG_TO_FREE / 512)
}

/// How long a close of the client waits until its locks on another machine are dropped. It waits for them so that who is
/// told of the close gets them; a process that was killed cannot be interrupted here.
const UNLOCK_LIMIT: Duration = Duration::from_secs(1);

/// What was written is with the host's kernel already; the locks of a process end here.
pub(crate) async fn flush(fs: &Passthrough, cx: &Context, op: Flush) -> Result<()> {
    let shared = fs.shared();
    let handle = shared.handle(op.nodeid, op.fh)?;
    let Some(remote) = handle.inode.mount.remote() else {
        shared.locks.release_posix(op.nodeid, op.lock_owner);
        return Ok(());
    };
    if shared.locks.knows(op.nodeid) {
        let (shared, (done, released)) = (shared.clone(), oneshot::channel());
        remote.later(move || {
            shared.locks.release_posix(op.nodeid, op.lock_owner);
            // Whoever waited may have given up.
            let _ = done.send(());
        });
        let _parked = remote.park(cx)?;
        // It is released all the same.
        let _ = timeout(UNLOCK_LIMIT, interruptible(cx, released)).await;
    }
    Ok(())
}
