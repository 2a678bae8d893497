//! Directories.

use std::{io, sync::Arc};

use fsrv::{
    Attr, Context, Entry, Errno, Fh, NAME_MAX, NodeId, Opened, Result, abi,
    op::{DirBuf, DirPlusBuf, OpenDir, ReadDir, ReadDirPlus, ReleaseDir},
};
use rustix::fs::{OFlags, SeekFrom};

use super::open::release_locks;
use crate::{
    config::{CachePolicy, Config},
    filesystem::{Memory, Passthrough},
    handle::Handle,
    mutex::lock,
    shared::Shared,
    sys::{
        dirent::{self, Dirent},
        stat::Stat,
    },
};

/// Bytes of entries read from the host at once.
const READ_SIZE: usize = 32 << 10;

/// Where reading a directory stands.
#[derive(Default)]
pub(crate) struct Position {
    /// Entries that were read from the host and not yet given to the client: `ahead[at..]`.
    ahead: Vec<u8>,
    at: usize,
    /// The offset that the client has come to.
    offset: u64,
}

pub(crate) async fn opendir(fs: &Passthrough, cx: &Context, op: OpenDir) -> Result<Opened> {
    let shared = fs.shared();
    let slot = shared.place_to_open()?;
    let inode = shared.inode(op.nodeid)?;
    if !inode.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let dir = inode.clone();
    let (file, is_unchanged) = fs
        .run(cx, &inode, move |shared| {
            let fd = shared.open(&dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let is_unchanged =
                shared.config.cache == CachePolicy::Auto && dir.is_unchanged(&Stat::of(&fd)?);
            Ok((shared.file(fd, &dir)?, is_unchanged))
        })
        .await?;
    let fh = shared.handles.insert(inode, file, OFlags::RDONLY, slot);
    Ok(Opened { fh, flags: flags(&shared.config, is_unchanged) })
}

fn flags(config: &Config, is_unchanged: bool) -> u32 {
    match config.cache {
        CachePolicy::Never => 0,
        CachePolicy::Always | CachePolicy::Metadata => abi::FOPEN_CACHE_DIR | abi::FOPEN_KEEP_CACHE,
        CachePolicy::Auto if is_unchanged => abi::FOPEN_CACHE_DIR | abi::FOPEN_KEEP_CACHE,
        CachePolicy::Auto => abi::FOPEN_CACHE_DIR,
    }
}

pub(crate) fn releasedir(fs: &Passthrough, op: ReleaseDir) -> Result<()> {
    let shared = fs.shared();
    let handle = dir_handle(fs, op.nodeid, op.fh)?;
    release_locks(shared, &handle, op.fh, None);
    shared.handles.remove(op.fh);
    Ok(())
}

pub(crate) async fn readdir(fs: &Passthrough, cx: &Context, op: ReadDir) -> Result<DirBuf> {
    let handle = dir_handle(fs, op.nodeid, op.fh)?;
    let (mount, mut entries) = (handle.inode.mount.clone(), op.entries);
    let memory = Memory::of(entries.is_in_client());
    fs.run_with(cx, &mount, memory, move |shared| {
        let mut pushed = false;
        read_entries(&handle, op.offset, |dirent| {
            let ino = ino_of(shared, &handle, dirent);
            let fits = entries.push(ino, dirent.next, dirent.kind, dirent.name).is_ok();
            pushed |= fits;
            Ok(fits)
        })
        .and_then(|more| at_least_one(more, pushed))?;
        Ok(entries)
    })
    .await
}

pub(crate) async fn readdirplus(
    fs: &Passthrough,
    cx: &Context,
    op: ReadDirPlus,
) -> Result<DirPlusBuf> {
    let handle = dir_handle(fs, op.nodeid, op.fh)?;
    let mount = handle.inode.mount.clone();
    let memory = Memory::of(op.entries.is_in_client());
    let mut listing = Listing { shared: fs.shared().clone(), entries: Some(op.entries) };
    let mut listed = fs
        .run_with(cx, &mount, memory, move |shared| {
            let mut pushed = false;
            read_entries(&handle, op.offset, |dirent| {
                let Some(entries) = &mut listing.entries else { return Ok(false) };
                // A lookup counts once it is made: it is made only for an entry that will go out.
                if !entries.fits(dirent.name.len()) {
                    return Ok(false);
                }
                let ino = ino_of(shared, &handle, dirent);
                let entry = look_up(shared, &handle, dirent);
                let entry = entry.as_ref();
                let fits = entries.push(ino, dirent.next, dirent.kind, dirent.name, entry).is_ok();
                pushed |= fits;
                Ok(fits)
            })
            .and_then(|more| at_least_one(more, pushed))?;
            Ok(listing)
        })
        .await?;
    listed.entries.take().ok_or(Errno::EIO)
}

/// Entries on their way to the client. Dropped before they are the reply, it takes back what was looked up for them.
struct Listing {
    shared: Arc<Shared>,
    entries: Option<DirPlusBuf>,
}

impl Drop for Listing {
    fn drop(&mut self) {
        let granted = self.entries.as_ref().map_or(&[][..], DirPlusBuf::granted);
        granted.iter().for_each(|&nodeid| self.shared.forget(nodeid, 1));
    }
}

fn dir_handle(fs: &Passthrough, nodeid: NodeId, fh: Fh) -> Result<Arc<Handle>> {
    let handle = fs.shared().handle(nodeid, fh)?;
    if handle.inode.is_dir() { Ok(handle) } else { Err(Errno::ENOTDIR) }
}

/// A buffer too small for the next entry is an error: an empty reply would be the end.
fn at_least_one(stopped: Stopped, pushed: bool) -> io::Result<()> {
    match stopped {
        Stopped::Full if !pushed => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        Stopped::Full | Stopped::AtEnd => Ok(()),
    }
}

/// Above the root there is only the root.
fn ino_of(shared: &Shared, handle: &Handle, dirent: &Dirent<'_>) -> u64 {
    if dirent.name == b".." && handle.inode.nodeid == NodeId::ROOT {
        shared.inodes.root_ino()
    } else {
        dirent.ino
    }
}

/// What the client gets to know of an entry; `None` leaves it to ask. That is so for a mount point: what is mounted there may
/// be remote, and is not asked for everybody who lists this directory.
fn look_up(shared: &Shared, handle: &Handle, dirent: &Dirent<'_>) -> Option<Entry> {
    if matches!(dirent.name, b"." | b"..") {
        return None;
    }
    let mut name = [0; NAME_MAX + 1];
    name[..dirent.name.len()].copy_from_slice(dirent.name);
    let name = std::ffi::CStr::from_bytes_until_nul(&name).ok()?;
    let found = shared.find(&handle.inode, name).ok()?;
    debug_assert_ne!(found.stat.attr.file_type() & Attr::TYPE_MASK, 0);
    Some(shared.enter(found))
}

enum Stopped {
    AtEnd,
    Full,
}

/// Gives entries behind `offset` to `take` until it has no room.
fn read_entries(
    handle: &Handle,
    offset: u64,
    mut take: impl FnMut(&Dirent<'_>) -> io::Result<bool>,
) -> io::Result<Stopped> {
    let mut position = lock(&handle.position);
    let position = &mut *position;
    if position.offset != offset {
        // The host knows its offsets for good, also when the directory has changed.
        rustix::fs::seek(&handle.file, SeekFrom::Start(offset))?;
        *position = Position { ahead: std::mem::take(&mut position.ahead), at: 0, offset };
        position.ahead.clear();
    }
    loop {
        while let Some(dirent) = dirent::parse(&position.ahead[position.at..]) {
            // No client could ask for a longer name.
            if dirent.name.len() <= NAME_MAX && !take(&dirent)? {
                return Ok(Stopped::Full);
            }
            position.offset = dirent.next;
            position.at += dirent.len;
        }
        position.at = 0;
        position.ahead.resize(READ_SIZE, 0);
        let len = dirent::read(&handle.file, &mut position.ahead);
        position.ahead.truncate(*len.as_ref().unwrap_or(&0));
        if len? == 0 {
            position.ahead = Vec::new();
            return Ok(Stopped::AtEnd);
        }
    }
}
