//! What can go wrong for a front-end.

use std::io;

use crate::vhost_user::Request;

/// A front-end's failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The back-end closed the connection.
    #[error("the back-end left")]
    Gone,
    /// The back-end did not say what the specification lets it say.
    #[error("the back-end broke the protocol: {0}")]
    Protocol(String),
    /// The back-end answered a message with an error.
    #[error("the back-end refused {request:?} with {value:#x}")]
    Refused {
        /// The message.
        request: Request,
        /// What it answered.
        value: u64,
    },
    /// Something took longer than allowed.
    #[error("no {0} in time")]
    Timeout(&'static str),
    /// The caller asked for something that this queue or memory cannot hold.
    #[error("no room: {0}")]
    NoRoom(&'static str),
    /// The filesystem answered with an error number.
    #[error("{op} failed: {}", io::Error::from_raw_os_error(*errno))]
    Fuse {
        /// The operation.
        op: &'static str,
        /// A positive errno.
        errno: i32,
    },
    /// What was read is not what was written.
    #[error("wrong content: {0}")]
    Mismatch(String),
}

impl Error {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Error::Io { what, source: errno.into() }
    }

    pub(crate) fn std(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::Io { what, source }
    }

    /// The errno with which the filesystem answered, if it did.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Fuse { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
