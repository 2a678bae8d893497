//! Extended attributes of whatever a descriptor refers to, special files and links among them.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, AsRawFd},
};

use rustix::fs::{getxattr, getxattr_query, listxattr, listxattr_query};

use super::{check, open::fd_name};

/// The calls of Linux 6.13 that take a directory.
const SYS_SETXATTRAT: libc::c_long = 463;
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;
const SYS_REMOVEXATTRAT: libc::c_long = 466;

/// `struct xattr_args`.
#[repr(C)]
struct Args {
    value: u64,
    size: u32,
    flags: u32,
}

/// Reads an attribute into `value`; its size alone when that is empty.
pub(crate) fn get(
    proc_fd: impl AsFd,
    fd: impl AsFd,
    name: &CStr,
    value: &mut [u8],
) -> io::Result<usize> {
    let mut args = Args { value: value.as_mut_ptr() as u64, size: len(value)?, flags: 0 };
    // SAFETY: `args` names the room of `value`.
    let result = unsafe { with_value(SYS_GETXATTRAT, proc_fd, &fd, name, &mut args) };
    or_by_path(result, fd, |path| {
        let is_query = value.is_empty();
        Ok(if is_query { getxattr_query(path, name) } else { getxattr(path, name, value) }?)
    })
}

/// Sets an attribute.
pub(crate) fn set(
    proc_fd: impl AsFd,
    fd: impl AsFd,
    name: &CStr,
    value: &[u8],
    flags: u32,
) -> io::Result<()> {
    let mut args = Args { value: value.as_ptr() as u64, size: len(value)?, flags };
    // SAFETY: `args` names the bytes of `value`, which are only read.
    let result = unsafe { with_value(SYS_SETXATTRAT, proc_fd, &fd, name, &mut args) };
    or_by_path(result.map(drop), fd, |path| {
        let flags = rustix::fs::XattrFlags::from_bits_retain(flags);
        Ok(rustix::fs::setxattr(path, name, value, flags)?)
    })
}

/// Lists the names, each with its NUL, into `names`; their size alone when that is empty.
pub(crate) fn list(proc_fd: impl AsFd, fd: impl AsFd, names: &mut [u8]) -> io::Result<usize> {
    let path = fd_name(&fd);
    // SAFETY: the path is a C string, and the last two arguments name the room of `names`.
    let result = unsafe {
        libc::syscall(
            SYS_LISTXATTRAT,
            proc_fd.as_fd().as_raw_fd(),
            path.as_c_str().as_ptr(),
            0,
            names.as_mut_ptr(),
            names.len(),
        )
    };
    or_by_path(check(result), fd, |path| {
        let is_query = names.is_empty();
        Ok(if is_query { listxattr_query(path) } else { listxattr(path, names) }?)
    })
}

/// Removes an attribute.
pub(crate) fn remove(proc_fd: impl AsFd, fd: impl AsFd, name: &CStr) -> io::Result<()> {
    let path = fd_name(&fd);
    // SAFETY: both strings are C strings.
    let result = unsafe {
        libc::syscall(
            SYS_REMOVEXATTRAT,
            proc_fd.as_fd().as_raw_fd(),
            path.as_c_str().as_ptr(),
            0,
            name.as_ptr(),
        )
    };
    or_by_path(check(result).map(drop), fd, |path| Ok(rustix::fs::removexattr(path, name)?))
}

/// The two calls that carry a value.
///
/// # Safety
/// `args` must name memory that the call may read, or for SYS_GETXATTRAT write.
unsafe fn with_value(
    call: libc::c_long,
    proc_fd: impl AsFd,
    fd: impl AsFd,
    name: &CStr,
    args: &mut Args,
) -> io::Result<usize> {
    let path = fd_name(fd);
    // SAFETY: the strings are C strings, and the caller answers for what `args` names.
    let result = unsafe {
        libc::syscall(
            call,
            proc_fd.as_fd().as_raw_fd(),
            path.as_c_str().as_ptr(),
            0,
            name.as_ptr(),
            &raw mut *args,
            size_of::<Args>(),
        )
    };
    check(result)
}

/// On kernels without these calls, by the whole path of the descriptor's link. Where a container's rules are older than the
/// calls EPERM may mean the same; if it does not, it is the answer again.
fn or_by_path<T>(
    result: io::Result<T>,
    fd: impl AsFd,
    by_path: impl FnOnce(&CStr) -> io::Result<T>,
) -> io::Result<T> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
            by_path(&CString::new(path).expect("digits"))
        }
        done => done,
    }
}

fn len(value: &[u8]) -> io::Result<u32> {
    u32::try_from(value.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))
}
