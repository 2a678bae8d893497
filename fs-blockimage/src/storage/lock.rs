//! The locks by which QEMU, and servers of this kind, keep out of each other's images.
//!
//! QEMU gives each thing that may be done to an image a byte in two rows (`block/file-posix.c`). Who does it locks the
//! byte in the first row, who does not bear it from others locks that in the second; all locks are shared ones, held
//! by the open file, and before the work each looks at the other row.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use libc::{c_int, c_short};

/// The first row: what its holder does.
const DOES: i64 = 100;
/// The second row: what its holder does not bear.
const BARS: i64 = 200;

/// What is done to an image; `BLK_PERM_*` in QEMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deed {
    Read = 0,
    Write = 1,
    Resize = 3,
}

impl Deed {
    fn by_others(self) -> &'static str {
        match self {
            Self::Read => "reads it",
            Self::Write => "writes to it",
            Self::Resize => "may resize it",
        }
    }
}

/// How an image is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
}

impl Access {
    fn deeds(self) -> &'static [Deed] {
        match self {
            Self::Read => &[Deed::Read],
            Self::Write => &[Deed::Read, Deed::Write, Deed::Resize],
        }
    }
}

/// What is not borne from others, whoever reads or writes.
const BARRED: [Deed; 2] = [Deed::Write, Deed::Resize];

/// Takes the locks for `access`, held until `file` and its duplicates are closed.
///
/// # Errors
/// `Err(Ok(how))` when another process does not bear this, or does what we do not bear; `Err(Err(_))` when the
/// filesystem has no such locks.
pub(super) fn take(
    file: BorrowedFd<'_>,
    access: Access,
) -> Result<(), Result<&'static str, io::Error>> {
    // First the locks, then the look: of two that come at once, one at least sees the other.
    for &deed in access.deeds() {
        lock(file, DOES + deed as i64).map_err(Err)?;
    }
    for deed in BARRED {
        lock(file, BARS + deed as i64).map_err(Err)?;
    }
    for &deed in access.deeds() {
        if is_locked(file, BARS + deed as i64).map_err(Err)? {
            return Err(Ok(match deed {
                Deed::Read => "wants it for itself",
                Deed::Write | Deed::Resize => "uses it and does not bear that it is written to",
            }));
        }
    }
    for deed in BARRED {
        if is_locked(file, DOES + deed as i64).map_err(Err)? {
            return Err(Ok(deed.by_others()));
        }
    }
    Ok(())
}

fn lock(file: BorrowedFd<'_>, byte: i64) -> io::Result<()> {
    fcntl(file, libc::F_OFD_SETLK, &mut flock(libc::F_RDLCK, byte))
}

/// Whether another open file has a lock on `byte`.
fn is_locked(file: BorrowedFd<'_>, byte: i64) -> io::Result<bool> {
    let mut flock = flock(libc::F_WRLCK, byte);
    fcntl(file, libc::F_OFD_GETLK, &mut flock)?;
    Ok(c_int::from(flock.l_type) != libc::F_UNLCK)
}

fn flock(kind: c_int, byte: i64) -> libc::flock64 {
    libc::flock64 {
        l_type: kind as c_short,
        l_whence: libc::SEEK_SET as c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

fn fcntl(file: BorrowedFd<'_>, command: c_int, flock: &mut libc::flock64) -> io::Result<()> {
    loop {
        // SAFETY: both commands read and write one `struct flock64`, which `flock` lends for this call,
        // on a descriptor that `file` keeps open.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *flock) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;

    #[test]
    fn readers_bear_each_other_and_a_writer_nobody_who_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        File::create(&path).unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let (one, two) = (open(), open());
        take(one.as_fd(), Access::Read).unwrap();
        take(two.as_fd(), Access::Read).unwrap();
        let how = take(open().as_fd(), Access::Write).unwrap_err().unwrap();
        assert!(how.contains("does not bear"), "{how}");
        drop((one, two));
        let writer = open();
        take(writer.as_fd(), Access::Write).unwrap();
        for access in [Access::Read, Access::Write] {
            take(open().as_fd(), access).unwrap_err().unwrap();
        }
        let duplicate = writer.try_clone().unwrap();
        drop(writer);
        take(open().as_fd(), Access::Read).unwrap_err().unwrap();
        drop(duplicate);
        take(open().as_fd(), Access::Write).unwrap();
    }
}
