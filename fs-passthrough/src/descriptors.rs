//! One account for every descriptor that a client can make us hold.
//!
//! Each is counted where it is opened, and until it is closed. Running out is an error to whoever wants one more, before
//! the kernel refuses those that are needed to answer for what is there already.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use fsrv_transport::io::{Closed, Closer, LONG_TO_FREE};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The most descriptors of directories kept open, and of removed files.
const DIRS_MAX: u64 = 1024;

/// The most files that wait to be closed because that frees much. Whoever removes one more waits.
const CLOSING_MAX: u64 = 64;

/// The most calls on threads of the pool at a time, whatever the limit: more threads than that nobody has.
const CALLS_MAX: u64 = 512;

/// Descriptors that a call has open until it returns: two directories, a file, and that opened.
const OF_A_CALL: u64 = 4;

/// What the calls have open that workers make themselves.
const OF_WORKERS: u64 = 16;

/// What a descriptor is held for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Share {
    /// A file that the client knows.
    Known,
    /// A file that the client has open.
    Open,
    /// A file that was removed while the client knows it.
    Removed,
    /// An owner's locks on a file.
    Locks,
    /// A removed file until it is closed aside. These have room of their own.
    Closing,
    /// What a call has open that waits for another machine.
    Remote,
}

const SHARES: usize = 6;

/// See the module.
pub(crate) struct Descriptors {
    held: [AtomicU64; SHARES],
    /// How many there may be.
    room: u64,
    /// How many directories may be kept open; these are counted as if they were.
    dirs: u64,
    closing: u64,
    calls: Semaphore,
    closer: Arc<Closer>,
}

impl Descriptors {
    /// For at most `max` descriptors. `has_dirs`: directories are kept open.
    pub(crate) fn new(max: u64, has_dirs: bool) -> Arc<Self> {
        let calls = (max / 8 / OF_A_CALL).clamp(1, CALLS_MAX);
        let dirs = (max / 8).clamp(16, DIRS_MAX);
        let closing = (max / 32).clamp(1, CLOSING_MAX);
        let passing = calls * OF_A_CALL + OF_WORKERS;
        let kept_back = passing + closing + if has_dirs { dirs } else { 0 };
        Arc::new(Self {
            held: Default::default(),
            room: max.saturating_sub(kept_back),
            dirs,
            closing,
            calls: Semaphore::new(calls as usize),
            closer: Arc::default(),
        })
    }

    /// Counts one more.
    pub(crate) fn take(self: &Arc<Self>, share: Share) -> Option<Slot> {
        let (most, in_all) = self.limits(share);
        let slot = self.take_anyway(share);
        // This one is counted already.
        (self.of(share) <= most && (share == Share::Closing || self.held() <= in_all))
            .then_some(slot)
    }

    /// Counts what a call opens and closes that waits for another machine: it may have that open for long.
    ///
    /// # Errors
    /// ENFILE when such calls have a quarter of all.
    pub(crate) fn take_for_remote_call(self: &Arc<Self>) -> io::Result<[Slot; OF_A_CALL as usize]> {
        let slots = std::array::from_fn(|_| self.take_anyway(Share::Remote));
        let (most, in_all) = self.limits(Share::Remote);
        if self.of(Share::Remote) <= most && self.held() <= in_all {
            Ok(slots)
        } else {
            Err(io::Error::from_raw_os_error(libc::ENFILE))
        }
    }

    /// Counts one that is open, and was looked at by [`Descriptors::has_room_for`] before.
    pub(crate) fn take_anyway(self: &Arc<Self>, share: Share) -> Slot {
        self.held[share as usize].fetch_add(1, Ordering::Relaxed);
        Slot { account: self.clone(), share }
    }

    pub(crate) fn has_room_for(&self, share: Share) -> bool {
        let (most, in_all) = self.limits(share);
        self.of(share) < most && self.held() < in_all
    }

    /// Whether the client should give files back.
    pub(crate) fn is_nearly_full(&self) -> bool {
        let (_, in_all) = self.limits(Share::Known);
        self.held() >= in_all / 8 * 7
    }

    /// How many directories may be kept open.
    pub(crate) fn dirs(&self) -> usize {
        self.dirs as usize
    }

    /// Waits until a call on the pool may have descriptors.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn for_call(&self) -> Option<SemaphorePermit<'_>> {
        self.calls.acquire().await.ok()
    }

    /// Closes what frees a large file.
    pub(crate) fn closer(&self) -> &Arc<Closer> {
        &self.closer
    }

    /// To be asked before something that may need room, for [`Closer::has_freed_since`].
    pub(crate) fn freed(&self) -> Closed {
        self.closer.now()
    }

    /// The most of `share`, and of all together for one more of it.
    fn limits(&self, share: Share) -> (u64, u64) {
        // Known files do not take the last: they must be open to be of use.
        let for_known = self.room / 16 * 15;
        match share {
            Share::Known => (u64::MAX, for_known),
            Share::Open => (u64::MAX, self.room),
            Share::Removed => (self.dirs, for_known),
            // Who locks leaves half of it to others.
            Share::Locks => (self.room / 2, self.room),
            Share::Closing => (self.closing, u64::MAX),
            Share::Remote => (self.room / 4, self.room),
        }
    }

    fn of(&self, share: Share) -> u64 {
        self.held[share as usize].load(Ordering::Relaxed)
    }

    fn held(&self) -> u64 {
        let shares = [Share::Known, Share::Open, Share::Removed, Share::Locks, Share::Remote];
        shares.into_iter().map(|share| self.of(share)).sum()
    }
}

/// One descriptor in the account, until this drops.
pub(crate) struct Slot {
    account: Arc<Descriptors>,
    share: Share,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.account.held[self.share as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// A descriptor that counts. When closing it may free a large file, it is closed aside.
pub(crate) struct Held {
    /// Taken only when it drops.
    fd: Option<OwnedFd>,
    slot: Option<Slot>,
    is_large: AtomicBool,
}

impl Held {
    pub(crate) fn new(fd: OwnedFd, slot: Slot) -> Self {
        Self { fd: Some(fd), slot: Some(slot), is_large: AtomicBool::new(false) }
    }

    /// Notes how many blocks of 512 bytes the file has.
    pub(crate) fn saw_blocks(&self, blocks: u64) {
        let is_large = blocks > LONG_TO_FREE / 512;
        if is_large != self.is_large.load(Ordering::Relaxed) {
            self.is_large.store(is_large, Ordering::Relaxed);
        }
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("open until it is dropped").as_fd()
    }
}

/// One that does not count.
#[cfg(test)]
impl From<OwnedFd> for Held {
    fn from(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), slot: None, is_large: AtomicBool::new(false) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if *self.is_large.get_mut()
            && let Some(slot) = self.slot.take()
        {
            let closer = slot.account.closer.clone();
            // It counts until it is closed.
            closer.close((self.fd.take(), slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(account: &Arc<Descriptors>, share: Share) -> Vec<Slot> {
        std::iter::from_fn(|| account.take(share)).collect()
    }

    #[test]
    fn who_locks_leaves_half_to_those_who_open() {
        let account = Descriptors::new(300, true);
        let locks = fill(&account, Share::Locks);
        let open = fill(&account, Share::Open);
        assert!(
            (locks.len() as i64 - open.len() as i64).abs() <= 1,
            "{} {}",
            locks.len(),
            open.len()
        );
        assert!(account.take(Share::Known).is_none());
        assert!(account.take(Share::Closing).is_some(), "it has room of its own");
        drop(locks);
        assert!(account.take(Share::Known).is_some());
        drop(open);
        assert_eq!(account.held(), 0);
    }

    #[test]
    fn calls_that_wait_for_other_machines_leave_three_quarters() {
        let account = Descriptors::new(1024, true);
        let calls: Vec<_> = std::iter::from_fn(|| account.take_for_remote_call().ok()).collect();
        let count = (calls.len() as u64) * OF_A_CALL;
        assert!(count <= account.room / 4 && count + OF_A_CALL > account.room / 4, "{count}");
        assert!(account.take(Share::Known).is_some());
        drop(calls);
        assert_eq!(account.held(), 0);
    }

    #[test]
    fn known_files_leave_some_to_those_who_open() {
        for max in [64, 300, 1024, 20_000] {
            let account = Descriptors::new(max, true);
            let known = fill(&account, Share::Known);
            let open = fill(&account, Share::Open);
            assert!(!known.is_empty() && !open.is_empty(), "{max}: {} {}", known.len(), open.len());
            assert!((known.len() + open.len()) as u64 <= max / 8 * 7, "{max}");
        }
    }

    #[test]
    fn a_large_file_counts_until_it_is_closed() {
        let account = Descriptors::new(1024, true);
        let file = std::fs::File::open("/").unwrap();
        let held = Held::new(file.into(), account.take(Share::Removed).unwrap());
        held.saw_blocks(u64::MAX);
        let before = account.freed();
        drop(held);
        let waiting = account.closer().has_freed_since(before);
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(waiting);
        assert_eq!(account.held(), 0);
    }
}
