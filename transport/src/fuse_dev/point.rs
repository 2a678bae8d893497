//! The directory or file to mount on, before and after.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, fstatfs, openat, statx},
    io::Errno,
};

use super::{MountError, lock::FileLock, options::Root};
use crate::io::start_thread;

/// `STATX_MNT_ID_UNIQUE`, from Linux 6.8 on: the number of a mount that is never used again.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// `STATX_ATTR_MOUNT_ROOT`.
const ATTR_MOUNT_ROOT: u64 = 0x2000;

/// `FUSE_SUPER_MAGIC`.
const FUSE_MAGIC: i64 = 0x6573_5546;

/// How long the server of a mount may take to say that it lives.
const ALIVE_LIMIT: Duration = Duration::from_secs(1);

/// A directory or file that may be mounted on.
pub(super) struct MountPoint {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) root: Root,
    /// There for a file.
    pub(super) lock: Option<FileLock>,
}

impl MountPoint {
    pub(super) fn open(path: &Path, root: Root) -> Result<Self, MountError> {
        let fd = open_path(path, root.open_flags())
            .map_err(|error| cannot_open(error, path.to_owned(), root))?;
        if root == Root::File {
            refuse_other_types(&fd, path)?;
        }
        let unreachable = |cause| MountError::Unreachable { path: path.to_owned(), cause };
        if is_mount_root(&fd).map_err(unreachable)? {
            refuse_fuse(&fd, path, root)?;
        }
        let lock = match root {
            Root::Directory => None,
            Root::File => Some(FileLock::take(&fd, path)?),
        };
        let path = path.canonicalize().map_err(unreachable)?;
        Ok(Self { fd, path, root, lock })
    }
}

fn cannot_open(error: Errno, path: PathBuf, root: Root) -> MountError {
    match (error, root) {
        (Errno::NOENT, Root::Directory) => MountError::Missing { path },
        (Errno::NOTDIR, Root::Directory) => MountError::NotADirectory { path },
        (Errno::NOENT | Errno::NOTDIR, Root::File) => MountError::NoFile { path },
        (Errno::NOTCONN, _) => MountError::Dead { path },
        (error, _) => MountError::Unreachable { path, cause: error.into() },
    }
}

/// An error when `fd` is no regular file.
fn refuse_other_types(fd: &OwnedFd, path: &Path) -> Result<(), MountError> {
    let path = path.to_owned();
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    match statx(fd, "", flags, StatxFlags::TYPE) {
        Ok(found) if FileType::from_raw_mode(found.stx_mode.into()).is_file() => Ok(()),
        Ok(_) => Err(MountError::NotAFile { path }),
        // Another user's FUSE mount, in which nothing can be opened either.
        Err(Errno::ACCESS) => Ok(()),
        Err(error) => Err(MountError::Unreachable { path, cause: error.into() }),
    }
}

fn is_mount_root(fd: &OwnedFd) -> io::Result<bool> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    // Who asks for more has to be let into another user's mount.
    let found = statx(fd, "", flags, StatxFlags::empty())?;
    Ok(found.stx_attributes.bits() & ATTR_MOUNT_ROOT != 0)
}

/// Which mount a descriptor is on.
#[derive(Clone, Copy, Debug)]
pub(super) struct MountId {
    /// Never used again, where the kernel has such numbers.
    unique: u64,
    /// The number in `/proc/self/mountinfo`, which is used again.
    pub(super) listed: u64,
    /// Major and minor number of the filesystem.
    pub(super) device: (u32, u32),
}

impl MountId {
    /// Asks the kernel alone: the server of the mount may be dead, or not running yet.
    pub(super) fn of(fd: impl AsFd) -> io::Result<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let listed = statx(&fd, "", flags, StatxFlags::MNT_ID)?.stx_mnt_id;
        let found = statx(&fd, "", flags, StatxFlags::MNT_ID | MNT_ID_UNIQUE)?;
        let device = (found.stx_dev_major, found.stx_dev_minor);
        Ok(Self { unique: found.stx_mnt_id, listed, device })
    }

    /// The topmost mount at `path`, a symbolic link at its end not followed.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        Self::of(open_path(path, OFlags::NOFOLLOW)?)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.unique, self.device) == (other.unique, other.device)
    }
}

fn open_path(path: &Path, more: OFlags) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC | more, Mode::empty())
}

/// An error when `fd`, the root of a mount, is on a FUSE filesystem.
fn refuse_fuse(fd: &OwnedFd, path: &Path, root: Root) -> Result<(), MountError> {
    let path = path.to_owned();
    let (sender, receiver) = mpsc::channel();
    let Ok(fd) = fd.try_clone() else { return Ok(()) };
    // A server that hangs must not take us along: then this thread waits alone.
    let ask = move || sender.send(fstatfs(fd).map(|found| found.f_type));
    start_thread("fsrv-statfs", ask)
        .map_err(|cause| MountError::Unreachable { path: path.clone(), cause })?;
    match receiver.recv_timeout(ALIVE_LIMIT) {
        Ok(Ok(kind)) if kind != FUSE_MAGIC => Ok(()),
        Ok(Err(Errno::NOTCONN | Errno::CONNABORTED)) => Err(MountError::Dead { path }),
        // A server need not know statfs. The kernel's own filesystems all do.
        Ok(Ok(_) | Err(Errno::NOSYS | Errno::OPNOTSUPP)) | Err(_) => Err(match root {
            Root::Directory => MountError::AlreadyMounted { path },
            Root::File => MountError::AlreadyExported { path },
        }),
        Ok(Err(error)) => Err(MountError::Unreachable { path, cause: error.into() }),
    }
}
