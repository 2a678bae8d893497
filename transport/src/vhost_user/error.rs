//! Why a front-end is not served, or no longer.

use std::{io, path::PathBuf};

use vhost::vhost_user::Error as ProtocolError;

use crate::virtqueue::QueueError;

/// Why a front-end is served no longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A message was none of the protocol, or came at a time when it means nothing.
    #[error("the front-end's {request} is no valid message, so its session ends: {cause}")]
    Message {
        /// The message.
        request: String,
        /// What was wrong.
        cause: ProtocolError,
    },
    /// A message was understood, and cannot be done.
    #[error("the front-end's {request} cannot be done, so its session ends: {cause}")]
    Refused {
        /// The message.
        request: String,
        /// Why not.
        cause: Refusal,
    },
    /// A worker ended while it served a queue of the front-end.
    #[error("a worker has ended, and with it the front-end's session: restart the server")]
    WorkerEnded,
    /// The socket failed.
    #[error("the socket of the front-end failed, so its session ends: {0}")]
    Socket(#[source] io::Error),
}

impl Error {
    /// Whether no front-end can be served any more: a worker is gone.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::WorkerEnded | Self::Refused { cause: Refusal::WorkerEnded { .. }, .. })
    }
}

/// Why a message of a front-end cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such queue.
    #[error("there is no queue {index}, only {max} from 0 on")]
    NoQueue {
        /// What was asked for.
        index: u32,
        /// How many there are.
        max: u16,
    },
    /// A number is none of a ring.
    #[error("{number} is no {what} of queue {index}")]
    Number {
        /// The queue.
        index: u16,
        /// What it would be.
        what: &'static str,
        /// The number.
        number: u32,
    },
    /// The queue runs, and this cannot be changed then.
    #[error("queue {index} runs: it has to be stopped first")]
    Running {
        /// The queue.
        index: u16,
    },
    /// The ring cannot be served.
    #[error("queue {index} has no ring that can be served: {cause}")]
    Ring {
        /// The queue.
        index: u16,
        /// Why not.
        cause: QueueError,
    },
    /// An address of a ring is in no region.
    #[error("queue {index} is at {address:#x}, which is in no memory region of the front-end")]
    Nowhere {
        /// The queue.
        index: u16,
        /// The front-end's address.
        address: u64,
    },
    /// A descriptor that should be an eventfd.
    #[error("the {what} descriptor of queue {index} is no eventfd")]
    NoEvent {
        /// The queue.
        index: u16,
        /// Which of its descriptors.
        what: &'static str,
    },
    /// Features that were not offered.
    #[error("it asks for features {0:#x}, which were not offered")]
    Features(u64),
    /// Memory that cannot be used.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The dirty log cannot be used.
    #[error("the dirty log cannot be mapped: {0}")]
    Log(MemoryError),
    /// Nothing in the configuration space can be written.
    #[error("the configuration space cannot be written")]
    ConfigIsFixed,
    /// Something that was never offered.
    #[error("it was not offered")]
    NotOffered,
    /// The front-end left while it was waited for.
    #[error("the front-end left before it was done")]
    Left,
    /// The worker of a queue ended.
    #[error("the worker of queue {index} has ended: restart the server")]
    WorkerEnded {
        /// The queue.
        index: u16,
    },
    /// A system call failed.
    #[error("the host refused it: {0}")]
    Host(#[from] io::Error),
}

impl Refusal {
    /// Whether the session goes on once the front-end has been told.
    pub(super) fn is_survivable(&self) -> bool {
        matches!(self, Self::Memory(_) | Self::ConfigIsFixed)
    }
}

/// Why a memory region cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The numbers make no region.
    #[error("a memory region of {len:#x} bytes at {start:#x} is empty or wraps around")]
    NoRegion {
        /// The guest's address.
        start: u64,
        /// Bytes.
        len: u64,
    },
    /// It overlaps another one.
    #[error("the memory region at {start:#x} overlaps the one at {other:#x}")]
    Overlaps {
        /// The guest's address of the new one.
        start: u64,
        /// The guest's address of the other one.
        other: u64,
    },
    /// There are too many.
    #[error("there are more than {0} memory regions")]
    TooMany(usize),
    /// The file is none that is shared memory.
    #[error("the file of a memory region is no regular file: use a memory back-end with share=on")]
    NoFile,
    /// The file ends before the region.
    #[error("the file of a memory region has {has:#x} bytes, and {needs:#x} are needed")]
    TooShort {
        /// Bytes of the file.
        has: u64,
        /// Where the region ends.
        needs: u64,
    },
    /// It would not be noticed when the front-end truncates it.
    #[error("too much memory of front-ends is held for requests that do not end")]
    Unwatched,
    /// No region is like this.
    #[error("there is no memory region of {len:#x} bytes at {start:#x}")]
    Unknown {
        /// The guest's address.
        start: u64,
        /// Bytes.
        len: u64,
    },
    /// A ring that runs would lose its memory.
    #[error("queue {index} runs in memory that goes away")]
    InUse {
        /// The queue.
        index: u16,
    },
    /// The kernel does not map it.
    #[error("a memory region of {len:#x} bytes cannot be mapped: {cause}")]
    Unmappable {
        /// Bytes.
        len: u64,
        /// Why not.
        cause: io::Error,
    },
}

/// Why nobody can connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The path does not fit the kernel's structure.
    #[error(
        "the socket path {} has {len} bytes, and at most 107 are possible: use a shorter one", path.display()
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
    /// The path names no file in a directory.
    #[error("the socket path {} names no file: give a path whose directory exists", path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// Another server has it.
    #[error(
        "the socket {} is served by {server} already: stop that one or use another path", path.display()
    )]
    InUse {
        /// The path.
        path: PathBuf,
        /// Who has it.
        server: String,
    },
    /// There is a file that is no socket.
    #[error(
        "{} exists and is no socket: remove it or use another path", path.display()
    )]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// An inherited descriptor is no listening socket.
    #[error("descriptor {fd} is no listening UNIX stream socket")]
    NotListening {
        /// The descriptor.
        fd: i32,
    },
    /// A system call failed.
    #[error("cannot {what} {}: {cause}", path.display())]
    Path {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// A system call failed that is about no path.
    #[error("cannot wait for front-ends: {0}")]
    Host(#[from] io::Error),
}
