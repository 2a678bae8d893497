//! Mounting by the kernel's own interface, for those who may.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::{
    mount::{
        FsMountFlags, FsOpenFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, move_mount,
    },
    process::{getegid, geteuid},
};

use super::{
    Device, MountOptions,
    mount::SUBTYPE,
    point::{MountId, MountPoint},
};

/// Mounts `device` on `point`.
///
/// # Errors
/// `PermissionDenied` when this process may not mount.
pub(super) fn mount(
    device: &Device,
    point: &MountPoint,
    options: &MountOptions,
) -> io::Result<MountId> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    configure(&context, device, options).map_err(|error| explained(&context, error))?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, options.attr())?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&mount, "", &point.fd, "", flags)?;
    MountId::of(&mount)
}

fn configure(context: &OwnedFd, device: &Device, options: &MountOptions) -> io::Result<()> {
    let set = |key, value: &str| fsconfig_set_string(context, key, value);
    fsconfig_set_string(context, "source", options.source.as_os_str())?;
    set("subtype", SUBTYPE)?;
    set("fd", &device.as_raw_fd().to_string())?;
    set("rootmode", options.root.mode())?;
    set("user_id", &geteuid().to_string())?;
    set("group_id", &getegid().to_string())?;
    fsconfig_set_flag(context, "default_permissions")?;
    if options.allow_other {
        fsconfig_set_flag(context, "allow_other")?;
    }
    for flag in options.flags().filter(|flag| flag.superblock) {
        fsconfig_set_flag(context, flag.word)?;
    }
    Ok(fsconfig_create(context)?)
}

/// Adds what the kernel has written about an error, if anything.
fn explained(context: &OwnedFd, error: io::Error) -> io::Error {
    let mut text = [0; 256];
    match rustix::io::read(context, &mut text) {
        Ok(len) if len > 2 => {
            // A letter for the severity and a space come first.
            let text = String::from_utf8_lossy(&text[2..len]);
            io::Error::new(error.kind(), format!("{} ({error})", text.trim()))
        }
        _ => error,
    }
}
