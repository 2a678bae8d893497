//! The descriptor through which a kernel talks to its FUSE server.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::{
    fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open},
    io::{FdFlags, fcntl_setfd},
    ioctl::{Opcode, Setter, ioctl, opcode},
};

/// `FUSE_DEV_IOC_CLONE` of `<linux/fuse.h>`.
const CLONE: Opcode = opcode::read::<u32>(229, 0);

/// An open `/dev/fuse`, non-blocking and closed in children.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    /// Opens the device. It serves nothing until a mount names it.
    pub(super) fn open() -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(Self(open("/dev/fuse", flags, Mode::empty())?))
    }

    /// Takes over a descriptor that already belongs to a mount.
    ///
    /// # Errors
    /// When its flags cannot be changed.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        Ok(Self(fd))
    }

    /// A descriptor of its own on the same connection: a request is answered on the one that it was
    /// read from.
    ///
    /// This opens `/dev/fuse` by its path, so clones are made at start.
    ///
    /// # Errors
    /// When the device cannot be opened, or `self` belongs to no mount.
    pub fn try_clone(&self) -> io::Result<Self> {
        let clone = Self::open()?;
        let source = self.0.as_raw_fd().cast_unsigned();
        // SAFETY: FUSE_DEV_IOC_CLONE reads one u32 through its argument, which `Setter` points at
        // `source`, and writes nothing.
        unsafe { ioctl(&clone, Setter::<CLONE, u32>::new(source)) }?;
        Ok(clone)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
