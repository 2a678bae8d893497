//! What a test sees of the host, and how it disturbs it.

#![cfg_attr(
    not(feature = "testing"),
    expect(unreachable_pub, reason = "only tests put a probe in")
)]

use std::io;

/// Something that is about to change a file of the host, or to make changes durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostOp {
    /// Bytes written at an offset.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: Vec<u8>,
    },
    /// All writes that ended before are made durable.
    Sync,
    /// The file gets this length.
    SetLen(u64),
    /// A range gets space, and the file the length for it.
    Allocate {
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// A range reads as zeroes.
    Zero {
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}

/// Watches the changes of one file of the host.
pub trait Probe: Send + Sync {
    /// Called before `op`, from the worker that does it. Its result is a number for [`Probe::after`].
    ///
    /// # Errors
    /// An error is the result of the operation, and nothing is changed.
    fn before(&self, op: &HostOp) -> io::Result<u64>;

    /// Called when the operation of that number has ended, with whether it succeeded.
    fn after(&self, number: u64, succeeded: bool);
}
