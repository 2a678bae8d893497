//! Error numbers as a client understands them.

use std::{fmt, io, num::NonZeroU16};

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Errno>;

/// An error number of Linux, 1..=511: a kernel rejects a reply with a larger one, and the request
/// would hang.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(NonZeroU16);

/// The largest error number that a client accepts.
const MAX: i32 = 511;

macro_rules! errnos {
    ($( $name:ident = $value:literal, $text:literal; )*) => {
        impl Errno {
            $( #[doc = $text] pub const $name: Self = Self(NonZeroU16::new($value).unwrap()); )*

            fn name(self) -> Option<&'static str> {
                match self.0.get() { $( $value => Some(stringify!($name)), )* _ => None }
            }
        }
    };
}

errnos! {
    EPERM = 1, "Operation not permitted.";
    ENOENT = 2, "No such file or directory.";
    EINTR = 4, "Interrupted.";
    EIO = 5, "Input/output error.";
    ENXIO = 6, "No such device or address.";
    E2BIG = 7, "Argument list too long.";
    EBADF = 9, "Bad file handle.";
    EAGAIN = 11, "Try again.";
    ENOMEM = 12, "Out of memory.";
    EACCES = 13, "Permission denied.";
    EBUSY = 16, "Busy.";
    EEXIST = 17, "Already exists.";
    EXDEV = 18, "On another filesystem.";
    ENODEV = 19, "No such device.";
    ENOTDIR = 20, "Not a directory.";
    EISDIR = 21, "Is a directory.";
    EINVAL = 22, "Invalid argument.";
    ENFILE = 23, "Too many open files in the server.";
    EMFILE = 24, "Too many open files.";
    ENOTTY = 25, "Inappropriate ioctl.";
    ETXTBSY = 26, "Text file busy.";
    EFBIG = 27, "File too large.";
    ENOSPC = 28, "No space left.";
    ESPIPE = 29, "Illegal seek.";
    EROFS = 30, "Read-only filesystem.";
    EMLINK = 31, "Too many links.";
    ERANGE = 34, "Result too large.";
    EDEADLK = 35, "Deadlock avoided.";
    ENAMETOOLONG = 36, "File name too long.";
    ENOLCK = 37, "No locks available.";
    ENOSYS = 38, "Never implemented here: the client stops sending this operation.";
    ENOTEMPTY = 39, "Directory not empty.";
    ELOOP = 40, "Too many symbolic links.";
    ENODATA = 61, "No such attribute.";
    EPROTO = 71, "Protocol error.";
    EOVERFLOW = 75, "Value too large.";
    EOPNOTSUPP = 95, "Not supported on this object.";
    ESTALE = 116, "Stale file handle.";
    EDQUOT = 122, "Quota exceeded.";
}

impl Errno {
    /// The errno with this number, or EIO for one that no client would accept.
    pub fn new(number: i32) -> Self {
        let number = if (1..=MAX).contains(&number) { number } else { Self::EIO.get() };
        u16::try_from(number).ok().and_then(NonZeroU16::new).map_or(Self::EIO, Self)
    }

    /// The number.
    pub const fn get(self) -> i32 {
        self.0.get() as i32
    }
}

impl From<io::Error> for Errno {
    /// The host's error. Its ENOSYS concerns this call only, so it becomes EOPNOTSUPP; running out of
    /// descriptors is the server's limit, so EMFILE becomes ENFILE.
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Self::new) {
            Some(Self::ENOSYS) => Self::EOPNOTSUPP,
            Some(Self::EMFILE) => Self::ENFILE,
            Some(errno) => errno,
            None => Self::EIO,
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_no_client_accepts_becomes_eio() {
        for number in [i32::MIN, -1, 0, 512, 70_000, i32::MAX] {
            assert_eq!(Errno::new(number), Errno::EIO);
        }
        assert_eq!(Errno::new(511).get(), 511);
    }

    #[test]
    fn enosys_of_the_host_is_not_passed_on() {
        assert_eq!(Errno::from(io::Error::from_raw_os_error(38)), Errno::EOPNOTSUPP);
    }
}
