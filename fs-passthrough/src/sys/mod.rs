//! The host's system calls, on descriptors and one path component at a time.
//!
//! Files are opened and created through [`open`]: nothing but a regular file or a directory is ever
//! opened without O_PATH, and no call follows a symbolic link or leaves a directory by name.
#![expect(unsafe_code, reason = "system calls that rustix does not have")]

pub(crate) mod creds;
pub(crate) mod dirent;
pub(crate) mod file_flags;
pub(crate) mod handle;
pub(crate) mod lock;
pub(crate) mod meta;
pub(crate) mod open;
pub(crate) mod required;
pub(crate) mod stat;
pub(crate) mod verity;
pub(crate) mod xattr;

use std::io;

/// The result of a raw system call.
fn check(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
