//! Making files, directories, links and nodes: what is made belongs to the caller.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use fsrv::{
    Attr, Context, Entry, NameBuf, Result,
    op::{Create, MkDir, MkNod, Symlink, TmpFile},
    types::{Created, device_parts},
};
use fsrv_transport::io::File;
use rustix::fs::{FileType, Mode, OFlags};

use super::open::{host_flags, opened};
use crate::{
    descriptors::Slot,
    filesystem::Passthrough,
    inode::{Found, Inode},
    shared::Shared,
    sys::{
        creds::{Caller, keeping_suid, with_credentials},
        open,
        stat::Stat,
    },
};

/// Permission bits and suid, sgid and sticky.
const PERMISSIONS: u32 = 0o7777;

const SGID: u32 = 0o2000;

/// Sgid, with a group that may execute.
const SGID_EXECUTES: u32 = 0o2010;

pub(crate) async fn symlink(fs: &Passthrough, cx: &Context, op: Symlink<'_>) -> Result<Entry> {
    let target = op.target.to_owned();
    let new = New::of(fs, cx, op.parent, op.name.to_buf(), 0o777, 0)?;
    make(fs, cx, new, move |dir, name, _| Ok(rustix::fs::symlinkat(&*target, dir, name)?)).await
}

pub(crate) async fn mknod(fs: &Passthrough, cx: &Context, op: MkNod<'_>) -> Result<Entry> {
    let kind = FileType::from_raw_mode(op.mode & Attr::TYPE_MASK);
    let (major, minor) = device_parts(op.rdev);
    let device = rustix::fs::makedev(major, minor);
    let new = New::of(fs, cx, op.parent, op.name.to_buf(), op.mode, op.umask)?;
    make(fs, cx, new, move |dir, name, mode| {
        Ok(rustix::fs::mknodat(dir, name, kind, mode, device)?)
    })
    .await
}

pub(crate) async fn mkdir(fs: &Passthrough, cx: &Context, op: MkDir<'_>) -> Result<Entry> {
    let new = New::of(fs, cx, op.parent, op.name.to_buf(), op.mode, op.umask)?;
    make(fs, cx, new, |dir, name, mode| Ok(rustix::fs::mkdirat(dir, name, mode)?)).await
}

/// What is to be made, and for whom.
struct New {
    parent: Arc<Inode>,
    name: NameBuf,
    mode: u32,
    umask: u32,
    caller: Caller,
}

impl New {
    fn of(
        fs: &Passthrough,
        cx: &Context,
        parent: fsrv::NodeId,
        name: NameBuf,
        mode: u32,
        umask: u32,
    ) -> Result<Self> {
        let parent = fs.shared().inode(parent)?;
        Ok(Self {
            parent,
            name,
            mode: mode & PERMISSIONS,
            umask: umask & 0o777,
            caller: Caller::of(cx),
        })
    }

    /// Runs `make` as the caller, with the mode to make a file in `dir` with.
    fn as_caller<T>(
        &self,
        dir: impl AsFd,
        make: impl FnOnce(Mode) -> io::Result<T>,
    ) -> io::Result<T> {
        let bits = self.mode & !self.forbidden(dir)?;
        let make = || with_credentials(self.caller, self.umask, |left| make(mode(bits & !left)));
        // The kernel takes sgid from whoever is not in the group; root may keep it.
        if bits & SGID != 0 && self.caller.uid == 0 { keeping_suid(make) } else { make() }
    }

    /// What this caller must not make in `dir`. A client's kernel sees to that since Linux 6.0, the host's by the
    /// groups of this thread and not on every filesystem.
    fn forbidden(&self, dir: impl AsFd) -> io::Result<u32> {
        if self.mode & SGID_EXECUTES != SGID_EXECUTES {
            return Ok(0);
        }
        let parent = Stat::of(dir)?.attr;
        let keeps = parent.mode & SGID == 0 || self.caller.may_make_sgid(parent.gid);
        Ok(if keeps { 0 } else { SGID })
    }
}

fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits)
}

async fn make<F>(fs: &Passthrough, cx: &Context, new: New, make: F) -> Result<Entry>
where
    F: Fn(std::os::fd::BorrowedFd<'_>, &std::ffi::CStr, Mode) -> io::Result<()> + Send + 'static,
{
    let parent = new.parent.clone();
    let found = fs
        .run_with_room(cx, &parent, move |shared| {
            let dir = shared.dir_fd(&new.parent)?;
            new.as_caller(&dir, |mode| make(dir.as_fd(), new.name.as_c_str(), mode))?;
            shared.find(&new.parent, new.name.as_c_str())
        })
        .await?;
    Ok(fs.shared().enter(found))
}

pub(crate) async fn create(fs: &Passthrough, cx: &Context, op: Create<'_>) -> Result<Created> {
    let slot = fs.shared().place_to_open()?;
    let flags = host_flags(&fs.shared().config, op.flags);
    let exclusive = OFlags::from_bits_retain(op.flags).contains(OFlags::EXCL);
    let new = New::of(fs, cx, op.parent, op.name.to_buf(), op.mode, op.umask)?;
    let parent = new.parent.clone();
    let made = fs
        .run_with_room(cx, &parent, move |shared| {
            let dir = shared.dir_fd(&new.parent)?;
            let name = new.name.as_c_str();
            let created = new.as_caller(&dir, |mode| open::create(&dir, name, flags, mode));
            let fd = created.map_err(|error| match error.kind() {
                // Another client was faster, and nobody has checked whether this caller may open what
                // is there. A kernel takes ESTALE as "look again", and then opens it as it should.
                io::ErrorKind::AlreadyExists if !exclusive => {
                    io::Error::from_raw_os_error(libc::ESTALE)
                }
                _ => error,
            })?;
            identify_new(shared, &new.parent, fd)
        })
        .await?;
    finish(fs, made, flags, slot)
}

pub(crate) async fn tmpfile(fs: &Passthrough, cx: &Context, op: TmpFile) -> Result<Created> {
    let slot = fs.shared().place_to_open()?;
    let flags = host_flags(&fs.shared().config, op.flags);
    let unnamed = fsrv::Name::new(c"unnamed")?.to_buf();
    let new = New::of(fs, cx, op.parent, unnamed, op.mode, op.umask)?;
    let parent = new.parent.clone();
    let made = fs
        .run_with_room(cx, &parent, move |shared| {
            let dir = shared.dir_fd(&new.parent)?;
            let fd = new.as_caller(&dir, |mode| open::create_unnamed(&dir, flags, mode))?;
            identify_new(shared, &new.parent, fd)
        })
        .await?;
    finish(fs, made, flags, slot)
}

/// A file and an open descriptor of it.
struct Made {
    found: Found,
    fd: OwnedFd,
}

/// What was just created is found by its own descriptor: its name may lead elsewhere by now.
fn identify_new(shared: &Shared, parent: &Inode, fd: OwnedFd) -> io::Result<Made> {
    let mut found = shared.identify(fd.try_clone()?, &parent.mount)?;
    if found.handle.is_none() {
        // What pins it must not keep it open for writing.
        found.fd = shared.path_of(&found.fd)?;
    }
    Ok(Made { found, fd })
}

fn finish(fs: &Passthrough, made: Made, flags: OFlags, slot: Slot) -> Result<Created> {
    let shared = fs.shared();
    let entry = shared.enter(made.found);
    let handle = shared.inode(entry.nodeid).and_then(|inode| {
        let file: io::Result<File> = shared.file(made.fd, &inode);
        Ok(shared.handles.insert(inode, file?, flags, slot))
    });
    match handle {
        Ok(fh) => Ok(Created { entry, opened: opened(&shared.config, fh, false) }),
        Err(errno) => {
            shared.forget(entry.nodeid, 1);
            Err(errno)
        }
    }
}
