//! System calls that nothing is served without.

use std::{
    io::{self, IoSliceMut},
    os::fd::AsFd,
};

use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::{open, stat::Stat};

/// The first of them that is refused, whatever for, tried on the shared directory. A seccomp profile that is older than
/// a call refuses it with EPERM, which each request would be answered with, or as an older kernel with ENOSYS.
pub(crate) fn refused(root: impl AsFd) -> Option<(&'static str, io::Error)> {
    let mut byte = [0];
    let read = |buffer: &mut [u8]| {
        preadv2(&root, &mut [IoSliceMut::new(buffer)], 0, ReadWriteFlags::empty())
    };
    // A directory has nothing to read: another error says that the call is there.
    let preadv2 = read(&mut byte).map(drop).map_err(io::Error::from);
    let probes = [
        ("openat2", open::find(&root, c".").map(drop)),
        ("statx", Stat::of(&root).map(drop)),
        ("preadv2", preadv2),
    ];
    let is_refusal =
        |error: &io::Error| matches!(Errno::from_io_error(error), Some(Errno::PERM | Errno::NOSYS));
    probes.into_iter().find_map(|(name, tried)| Some((name, tried.err().filter(is_refusal)?)))
}
