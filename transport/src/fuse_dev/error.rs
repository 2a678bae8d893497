//! Why a mount could not be made.

use std::{io, path::PathBuf};

/// Why a mount could not be made: the place, the cause and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mount point does not exist.
    #[error("cannot mount on {}: No such file or directory; create it first", .path.display())]
    Missing {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount point, or something on the way to it, is no directory.
    #[error("cannot mount on {}: Not a directory", .path.display())]
    NotADirectory {
        /// The mount point.
        path: PathBuf,
    },
    /// The file to mount over does not exist.
    #[error(
        "cannot mount on {}: '{}' is not a regular file, it does not exist; create it first, empty",
        .path.display(), .path.display()
    )]
    NoFile {
        /// The mount point.
        path: PathBuf,
    },
    /// What is to be mounted over is no regular file.
    #[error(
        "cannot mount on {}: '{}' is not a regular file; mount over one, it may be empty",
        .path.display(), .path.display()
    )]
    NotAFile {
        /// The mount point.
        path: PathBuf,
    },
    /// A server has mounted over this file, whatever name of the file it used.
    #[error(
        "cannot mount on {}: '{}' is already exported, by this path or another; end that server \
         first, or mount over another file",
        .path.display(), .path.display()
    )]
    AlreadyExported {
        /// The mount point.
        path: PathBuf,
    },
    /// The file to mount over cannot be opened, and so not locked.
    #[error(
        "cannot mount on {}: cannot open it for reading, to lock it: {cause}; let this user read it",
        .path.display()
    )]
    Unreadable {
        /// The mount point.
        path: PathBuf,
        /// What the kernel answered.
        cause: io::Error,
    },
    /// The filesystem of the file to mount over has no locks.
    #[error(
        "cannot mount on {}: cannot lock it: {cause}; mount over a file of a local filesystem",
        .path.display()
    )]
    NotLockable {
        /// The mount point.
        path: PathBuf,
        /// What the kernel answered.
        cause: io::Error,
    },
    /// The mount point cannot be reached.
    #[error("cannot mount on {}: {cause}", .path.display())]
    Unreachable {
        /// The mount point.
        path: PathBuf,
        /// What the kernel answered.
        cause: io::Error,
    },
    /// A FUSE server serves the mount point already.
    #[error(
        "cannot mount on {}: it is a FUSE mount already; unmount it with `umount {}` first",
        .path.display(), .path.display()
    )]
    AlreadyMounted {
        /// The mount point.
        path: PathBuf,
    },
    /// The server of the FUSE mount there is gone.
    #[error(
        "cannot mount on {}: Transport endpoint is not connected, the server of the mount there is \
         gone; remove it with `fusermount3 -u {}` or `umount -l {}`",
        .path.display(), .path.display(), .path.display()
    )]
    Dead {
        /// The mount point.
        path: PathBuf,
    },
    /// There is no usable `/dev/fuse`.
    #[error("cannot open /dev/fuse: {cause}; {}", way_to_a_device(.cause))]
    NoDevice {
        /// What the kernel answered.
        cause: io::Error,
    },
    /// The kernel refused the mount.
    #[error("cannot mount on {}: {cause}", .path.display())]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// What the kernel answered.
        cause: io::Error,
    },
    /// Only root may mount, and the program that may do it for others is not there.
    #[error(
        "cannot mount on {}: Operation not permitted, and there is no fusermount3; run as root or \
         install the package fuse3",
        .path.display()
    )]
    NoPermission {
        /// The mount point.
        path: PathBuf,
    },
    /// The machine's owner does not let users open their mounts to others.
    #[error(
        "cannot mount on {} for other users: only root may, unless /etc/fuse.conf has a line \
         `user_allow_other`",
        .path.display()
    )]
    AllowOtherForbidden {
        /// The mount point.
        path: PathBuf,
    },
    /// fusermount3 failed.
    #[error("cannot mount on {}: {message}", .path.display())]
    Program {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        message: String,
    },
}

fn way_to_a_device(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => "let this user read and write it, or run as root",
        _ => "load the module with `modprobe fuse`, or give the container this device",
    }
}
