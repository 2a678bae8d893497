//! Mounting by fusermount3, which may do it for everybody.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags,
        SocketType, recvmsg, socketpair,
    },
};

use super::{Device, MountError, MountOptions, mount::SUBTYPE, point::MountPoint};
use crate::io::name_limits;

const PROGRAM: &str = "fusermount3";

/// Mounts on `point`, and takes the device from the program.
pub(super) fn mount(point: &MountPoint, options: &MountOptions) -> Result<Device, MountError> {
    let path = &point.path;
    let failed =
        |cause: io::Error| MountError::Program { path: path.clone(), message: cause.to_string() };
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|error| failed(error.into()))?;
    let child = Command::new(PROGRAM)
        .arg("-o")
        .arg(options.for_program(SUBTYPE))
        .arg("--")
        .arg(path)
        // Its standard input is the one descriptor that a child gets without a race.
        .env("_FUSE_COMMFD", "0")
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                MountError::NoPermission { path: path.clone() }
            }
            _ => failed(name_limits(error)),
        })?;
    let received = receive(&ours);
    let output = child.wait_with_output().map_err(failed)?;
    match received {
        Ok(Some(fd)) if output.status.success() => Device::from_fd(fd).map_err(failed),
        Err(error) if output.status.success() => Err(failed(error)),
        _ => Err(refused(path, &String::from_utf8_lossy(&output.stderr))),
    }
}

/// Unmounts `path`, lazily when asked to.
pub(super) fn unmount(path: &Path, lazily: bool) -> io::Result<()> {
    let output = Command::new(PROGRAM)
        .arg(if lazily { "-uz" } else { "-u" })
        .arg("--")
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(name_limits)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let kind =
        if said.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    Err(io::Error::new(kind, one_line(&said)))
}

/// The descriptor that comes over `socket`; `None` when it is closed without one.
fn receive(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut iov = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(descriptors.next().and_then(|mut descriptors| descriptors.next()))
}

fn refused(path: &Path, said: &str) -> MountError {
    let path = path.to_owned();
    if said.contains("user_allow_other") {
        return MountError::AllowOtherForbidden { path };
    }
    if said.contains("failed to open /dev/fuse: Permission denied") {
        return MountError::NoDevice { cause: Errno::ACCESS.into() };
    }
    MountError::Program { path, message: one_line(said) }
}

fn one_line(said: &str) -> String {
    let said = said.trim();
    if said.is_empty() { format!("{PROGRAM} failed") } else { said.replace('\n', "; ") }
}
