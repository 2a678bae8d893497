//! The flags that a file has of its filesystem (`chattr(1)`), and its project.

use std::{io, os::fd::AsFd};

use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `FS_IOC_GETFLAGS` and `FS_IOC_SETFLAGS`. Their numbers say `long`, and they take an `int`.
pub(crate) const GET_FLAGS: Opcode = opcode::read::<libc::c_long>(b'f', 1);
pub(crate) const SET_FLAGS: Opcode = opcode::write::<libc::c_long>(b'f', 2);

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`.
pub(crate) const GET_XFLAGS: Opcode = opcode::read::<Xflags>(b'X', 31);
pub(crate) const SET_XFLAGS: Opcode = opcode::write::<Xflags>(b'X', 32);

/// `struct fsxattr` of `<linux/fs.h>`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Xflags {
    pub(crate) xflags: u32,
    pub(crate) extsize: u32,
    pub(crate) nextents: u32,
    pub(crate) projid: u32,
    pub(crate) cowextsize: u32,
    pub(crate) pad: [u8; 8],
}

/// The flags of `file`, as `FS_IOC_GETFLAGS` has them.
///
/// # Errors
/// ENOTTY where its filesystem has none.
pub(crate) fn get(file: impl AsFd) -> io::Result<u32> {
    // SAFETY: the command writes one `int` at the address that it is given.
    Ok(unsafe { ioctl(file, Getter::<GET_FLAGS, u32>::new()) }?)
}

/// Gives `file` these flags.
pub(crate) fn set(file: impl AsFd, flags: u32) -> io::Result<()> {
    // SAFETY: the command reads one `int` at the address that it is given.
    Ok(unsafe { ioctl(file, Setter::<SET_FLAGS, u32>::new(flags)) }?)
}

/// The flags of `file`, with its project, as `FS_IOC_FSGETXATTR` has them.
///
/// # Errors
/// ENOTTY where its filesystem has none.
pub(crate) fn get_extended(file: impl AsFd) -> io::Result<Xflags> {
    // SAFETY: the command writes one `struct fsxattr` at the address that it is given.
    Ok(unsafe { ioctl(file, Getter::<GET_XFLAGS, Xflags>::new()) }?)
}

/// Gives `file` these flags and this project.
pub(crate) fn set_extended(file: impl AsFd, flags: Xflags) -> io::Result<()> {
    // SAFETY: the command reads one `struct fsxattr` at the address that it is given.
    Ok(unsafe { ioctl(file, Setter::<SET_XFLAGS, Xflags>::new(flags)) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernel() {
        assert_eq!([GET_FLAGS, SET_FLAGS], [0x8008_6601, 0x4008_6602]);
        assert_eq!([GET_XFLAGS, SET_XFLAGS], [0x801c_581f, 0x401c_5820]);
    }
}
