//! A mount, and its end.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, open, syncfs},
    mount::UnmountFlags,
};

use super::{
    Device, MountError, MountOptions, direct,
    find::{Found, find},
    lock::FileLock,
    options::Root,
    point::{MountId, MountPoint},
    program,
};

/// Mounts are listed with the type `fuse.fsrv`.
pub(super) const SUBTYPE: &str = "fsrv";

/// A mount point that is being served. Dropping it detaches the mount.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    id: MountId,
    means: Means,
    root: Root,
    /// There for a file.
    lock: Option<FileLock>,
}

/// Who made the mount, and so may remove it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Means {
    Kernel,
    Program,
}

/// Mounts on `path`: by the kernel's interface where this process may, else by fusermount3.
///
/// The client's requests wait in the device until somebody reads them; so do processes that touch
/// the mount.
///
/// # Errors
/// See [`MountError`]; nothing is left behind.
pub fn mount(path: &Path, options: &MountOptions) -> Result<(Mount, Device), MountError> {
    let point = MountPoint::open(path, options.root)?;
    match mount_directly(&point, options) {
        Ok((id, device)) => Ok((Mount::new(point, id, Means::Kernel), device)),
        Err(error) if is_refusal(&error) => mount_by_program(point, options),
        Err(error) => Err(error),
    }
}

/// Gives the mount at `path` these flags instead of those that it has. Its server is not told.
///
/// # Errors
/// `PermissionDenied` for all but root; `InvalidInput` where nothing is mounted.
pub fn remount(path: &Path, options: &MountOptions) -> io::Result<()> {
    Ok(rustix::mount::mount_remount(path, options.remount_flags(), c"")?)
}

fn mount_directly(
    point: &MountPoint,
    options: &MountOptions,
) -> Result<(MountId, Device), MountError> {
    let device = Device::open().map_err(|cause| MountError::NoDevice { cause })?;
    let refused = |cause| MountError::Refused { path: point.path.clone(), cause };
    let id = direct::mount(&device, point, options).map_err(refused)?;
    Ok((id, device))
}

pub(super) fn mount_by_program(
    point: MountPoint,
    options: &MountOptions,
) -> Result<(Mount, Device), MountError> {
    let device = program::mount(&point, options)?;
    let refused = |cause| MountError::Refused { path: point.path.clone(), cause };
    let id = MountId::at(&point.path).map_err(refused)?;
    Ok((Mount::new(point, id, Means::Program), device))
}

/// Whether somebody with more rights may do better.
fn is_refusal(error: &MountError) -> bool {
    matches!(error, MountError::NoDevice { cause } | MountError::Refused { cause, .. }
        if cause.kind() == ErrorKind::PermissionDenied)
}

impl Mount {
    fn new(point: MountPoint, id: MountId, means: Means) -> Self {
        let MountPoint { path, root, lock, .. } = point;
        Self { path, id, means, root, lock }
    }

    /// The mount point as it was when it was mounted on, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether unmounting takes fusermount3, and so a process that may gain privileges.
    pub fn needs_program(&self) -> bool {
        self.means == Means::Program
    }

    /// Unmounts, wherever the mount point was moved to. It is no error when somebody else did so before, and a
    /// mount that took the place of this one is left alone.
    ///
    /// The kernel first writes back what it has cached, so the mount must still be served.
    ///
    /// # Errors
    /// `ResourceBusy` while processes use the mount, or another one covers it.
    pub fn unmount(&self) -> io::Result<()> {
        self.remove(UnmountFlags::NOFOLLOW)
    }

    /// Takes the mount out of the tree now, and ends it when nobody uses it any more.
    ///
    /// # Errors
    /// `ResourceBusy` while another mount covers this one.
    pub fn detach(&self) -> io::Result<()> {
        self.remove(UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
    }

    /// Writes back what the kernel has cached of this mount, which must be served meanwhile.
    ///
    /// # Errors
    /// When something could not be written.
    pub fn sync(&self) -> io::Result<()> {
        let Found::At(path) = find(&self.id, &self.path)? else { return Ok(()) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = open(&path, flags | self.root.open_flags(), Mode::empty())?;
        if MountId::of(&root)?.is_same(&self.id) {
            syncfs(&root)?;
        }
        Ok(())
    }

    /// Detaches the mount and aborts its connection: whoever waits for the server gets an error.
    ///
    /// # Errors
    /// `ResourceBusy` while another mount covers this one.
    pub fn abort(&self) -> io::Result<()> {
        self.remove(UnmountFlags::NOFOLLOW | UnmountFlags::DETACH | UnmountFlags::FORCE)
    }

    fn remove(&self, flags: UnmountFlags) -> io::Result<()> {
        self.take_off(flags)?;
        if let Some(lock) = &self.lock {
            lock.release();
        }
        Ok(())
    }

    fn take_off(&self, flags: UnmountFlags) -> io::Result<()> {
        let path = match find(&self.id, &self.path)? {
            Found::At(path) => path,
            Found::Covered(path) => {
                let message = format!("another mount covers {}", path.display());
                return Err(io::Error::new(ErrorKind::ResourceBusy, message));
            }
            Found::Nowhere => return Ok(()),
        };
        match self.means {
            Means::Kernel => Ok(rustix::mount::unmount(&path, flags)?),
            Means::Program => program::unmount(&path, flags.contains(UnmountFlags::DETACH)),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A destructor has nobody to tell; who wants to know has called `unmount` before.
        let _ = self.detach();
    }
}
