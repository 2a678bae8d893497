//! How a guest is told that something happened.

use std::{fmt, os::fd::OwnedFd};

/// Tells a guest, or its owner, that something happened.
pub enum Call {
    /// One is added to this eventfd.
    Event(OwnedFd),
    /// This function is called, on the worker. It must not wait.
    Function(Box<dyn Fn() + Send>),
}

impl Call {
    pub(super) fn signal(&self) {
        match self {
            // A counter that is full has been signalled.
            Self::Event(fd) => drop(rustix::io::write(fd, &1u64.to_ne_bytes())),
            Self::Function(call) => call(),
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Event(_) => "Event",
            Self::Function(_) => "Function",
        })
    }
}
