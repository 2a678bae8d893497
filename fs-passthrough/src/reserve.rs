//! Space that a filesystem keeps for root.
//!
//! ext2, ext3, ext4 and f2fs let in whoever has the id of root, and that is the server for all its callers. What
//! callers create is theirs and made with their ids, so there the filesystem sees who it is. Writes are not: two changes
//! of ids cost more than a small write does. They get the caller's ids only while so little space is left that they
//! could get into the reserve.

use std::{
    io,
    os::fd::AsFd,
    sync::{
        LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Instant,
};

use rustix::fs::{fstatfs, fstatvfs};

use crate::sys::creds::{Caller, with_credentials};

/// Space this near to its end is shared out with the ids of who asks for it.
const NEAR: u64 = 64 << 20;

/// How long what was seen of a filesystem is believed: host processes take space as well.
const VALID_MS: u64 = 1000;

/// What asks for more than this is worth a look at the filesystem by itself.
const LARGE: u64 = 1 << 30;

const EXT: u64 = 0xef53;
const F2FS: u64 = 0xf2f5_2010;

/// What is known of one filesystem.
pub(crate) struct Reserve {
    may_exist: bool,
    /// Bytes that may be given out before somebody looks again.
    allowance: AtomicI64,
    /// The time at which to look again, as [`now`].
    expires: AtomicU64,
}

impl Reserve {
    /// Of the filesystem of `fd`.
    pub(crate) fn of(fd: impl AsFd) -> Self {
        let may_exist = fstatfs(fd).is_ok_and(|stat| [EXT, F2FS].contains(&(stat.f_type as u64)));
        Self { may_exist, ..Self::none() }
    }

    /// Of a filesystem without any.
    pub(crate) fn none() -> Self {
        Self { may_exist: false, allowance: AtomicI64::new(0), expires: AtomicU64::new(0) }
    }

    /// Whose ids `bytes` more for the file of `fd` are taken with: the server's, unless they could come out of the reserve.
    pub(crate) fn taker(&self, caller: Caller, bytes: u64, fd: impl AsFd) -> Taker {
        Taker((caller.is_another() && self.is_near(bytes, fd)).then_some(caller))
    }

    /// Whether `bytes` more for the file of `fd` could come out of the reserve.
    fn is_near(&self, bytes: u64, fd: impl AsFd) -> bool {
        if !self.may_exist {
            return false;
        }
        if bytes < LARGE {
            let before = self.allowance.fetch_sub(bytes.cast_signed(), Ordering::Relaxed);
            if before > bytes.cast_signed() && now() < self.expires.load(Ordering::Relaxed) {
                return false;
            }
        }
        self.look(bytes, fd)
    }

    fn look(&self, bytes: u64, fd: impl AsFd) -> bool {
        let Ok(stat) = fstatvfs(fd) else { return false };
        if stat.f_bfree == stat.f_bavail {
            self.allow(i64::MAX as u64);
            return false;
        }
        let left = stat.f_bavail.saturating_mul(stat.f_frsize);
        let spare = left.saturating_sub(NEAR).saturating_sub(bytes);
        // Half of it: others look at the same moment.
        self.allow(spare / 2);
        spare == 0
    }

    fn allow(&self, bytes: u64) {
        self.allowance.store(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.expires.store(now() + VALID_MS, Ordering::Relaxed);
    }
}

/// Whose ids a thread has while it takes space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taker(Option<Caller>);

impl Taker {
    /// Whether it is not the server.
    pub(crate) fn is_caller(self) -> bool {
        self.0.is_some()
    }

    /// Runs `take` with these ids.
    pub(crate) fn run<T>(self, take: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.0 {
            Some(caller) => with_credentials(caller, 0, |_| take()),
            None => take(),
        }
    }
}

/// Milliseconds since the first look.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_at_again_when_what_was_left_is_used_up() {
        let file = std::fs::File::open("/").unwrap();
        let reserve = Reserve { may_exist: true, ..Reserve::none() };
        reserve.allow(10_000);
        assert!(!reserve.is_near(4000, &file) && !reserve.is_near(4000, &file));
        assert_eq!(reserve.allowance.load(Ordering::Relaxed), 2000);
        reserve.is_near(4000, &file);
        let stat = fstatvfs(&file).unwrap();
        let allowance = reserve.allowance.load(Ordering::Relaxed);
        assert!(allowance >= 0 && allowance != 2000, "{allowance} of {}", stat.f_bavail);
    }

    #[test]
    fn nothing_is_kept_on_other_filesystems() {
        let proc = std::fs::File::open("/proc").unwrap();
        assert!(!Reserve::of(&proc).may_exist);
        assert!(!Reserve::of(&proc).is_near(u64::MAX, &proc));
    }
}
