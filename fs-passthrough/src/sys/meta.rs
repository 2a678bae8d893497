//! Changes of attributes by an O_PATH descriptor.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use fsrv::{op::SetTime, types::Timestamp};
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};

use super::open::fd_name;

/// `fchmodat2` of Linux 6.6.
const SYS_FCHMODAT2: libc::c_long = 452;

/// Changes the permissions of a file, which may be open by O_PATH.
pub(crate) fn chmod(proc_fd: impl AsFd, fd: impl AsFd, mode: u32) -> io::Result<()> {
    // SAFETY: the path is a C string; no other memory is involved.
    let result = unsafe {
        libc::syscall(
            SYS_FCHMODAT2,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            mode,
            libc::AT_EMPTY_PATH,
        )
    };
    match super::check(result) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            let name = fd_name(fd);
            let mode = Mode::from_raw_mode(mode);
            Ok(rustix::fs::chmodat(proc_fd, name.as_c_str(), mode, AtFlags::empty())?)
        }
        done => done.map(drop),
    }
}

/// Changes the owner, the group or both.
pub(crate) fn chown(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let uid = uid.map(rustix::fs::Uid::from_raw);
    let gid = gid.map(rustix::fs::Gid::from_raw);
    Ok(rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)?)
}

/// Changes the times that are given.
pub(crate) fn set_times(
    fd: impl AsFd,
    atime: Option<SetTime>,
    mtime: Option<SetTime>,
) -> io::Result<()> {
    let times = Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) };
    Ok(rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH)?)
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(SetTime::At(Timestamp { sec, nsec })) => {
            Timespec { tv_sec: sec, tv_nsec: nsec.into() }
        }
    }
}
