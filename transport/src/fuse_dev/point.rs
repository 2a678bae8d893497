//! The directory to mount on, before and after.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, fstatfs, openat, statx},
    io::Errno,
};

use super::MountError;

/// `STATX_MNT_ID_UNIQUE`, from Linux 6.8 on: the number of a mount that is never used again.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// `STATX_ATTR_MOUNT_ROOT`.
const ATTR_MOUNT_ROOT: u64 = 0x2000;

/// `FUSE_SUPER_MAGIC`.
const FUSE_MAGIC: i64 = 0x6573_5546;

/// How long the server of a mount may take to say that it lives.
const ALIVE_LIMIT: Duration = Duration::from_secs(1);

/// A directory that may be mounted on.
pub(super) struct MountPoint {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
}

impl MountPoint {
    pub(super) fn open(path: &Path) -> Result<Self, MountError> {
        let owned = || path.to_owned();
        let fd = open_path(path, OFlags::empty()).map_err(|error| match error {
            Errno::NOENT => MountError::Missing { path: owned() },
            Errno::NOTDIR => MountError::NotADirectory { path: owned() },
            Errno::NOTCONN => MountError::Dead { path: owned() },
            error => MountError::Unreachable { path: owned(), cause: error.into() },
        })?;
        let unreachable = |cause| MountError::Unreachable { path: owned(), cause };
        let here = MountId::of(&fd).map_err(unreachable)?;
        if here.is_mount_root {
            refuse_fuse(&fd, path)?;
        }
        let path = path.canonicalize().map_err(unreachable)?;
        Ok(Self { fd, path })
    }
}

/// Which mount a descriptor is on.
#[derive(Clone, Copy, Debug)]
pub(super) struct MountId {
    mount: u64,
    /// Major and minor number of the filesystem.
    pub(super) device: (u32, u32),
    is_mount_root: bool,
}

impl MountId {
    /// Asks the kernel alone: the server of the mount may be dead, or not running yet.
    pub(super) fn of(fd: impl AsFd) -> io::Result<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = statx(fd, "", flags, StatxFlags::MNT_ID | MNT_ID_UNIQUE)?;
        Ok(Self {
            mount: found.stx_mnt_id,
            device: (found.stx_dev_major, found.stx_dev_minor),
            is_mount_root: found.stx_attributes.bits() & ATTR_MOUNT_ROOT != 0,
        })
    }

    /// The topmost mount at `path`, a symbolic link at its end not followed.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        Self::of(open_path(path, OFlags::NOFOLLOW)?)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.mount, self.device) == (other.mount, other.device)
    }
}

fn open_path(path: &Path, more: OFlags) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | more, Mode::empty())
}

/// An error when `fd`, the root of a mount, is on a FUSE filesystem.
fn refuse_fuse(fd: &OwnedFd, path: &Path) -> Result<(), MountError> {
    let path = path.to_owned();
    let (sender, receiver) = mpsc::channel();
    let Ok(fd) = fd.try_clone() else { return Ok(()) };
    // A server that hangs must not take us along: then this thread waits alone.
    thread::spawn(move || sender.send(fstatfs(fd).map(|found| found.f_type)));
    match receiver.recv_timeout(ALIVE_LIMIT) {
        Ok(Err(Errno::NOTCONN | Errno::CONNABORTED)) => Err(MountError::Dead { path }),
        Ok(Ok(FUSE_MAGIC)) | Err(_) => Err(MountError::AlreadyMounted { path }),
        Ok(_) => Ok(()),
    }
}
