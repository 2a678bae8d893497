//! Waiting on the control thread, which has no runtime.

use std::{
    future::Future,
    os::fd::AsFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often to look whether it is still worth waiting.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Waits for `future` for at most `patience`.
pub(super) fn wait<F: Future>(mut future: Pin<&mut F>, patience: Duration) -> Option<F::Output> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let end = Instant::now() + patience;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}

/// Whether the other end of `socket` is still there.
pub(super) fn is_connected(socket: impl AsFd) -> bool {
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    poll_now(&socket, PollFlags::RDHUP).is_none_or(|now| !now.intersects(gone))
}

/// Takes a full counter out of an eventfd, so that a thread that waits in a write to it goes on. Only a
/// front-end that means harm fills it.
pub(super) fn unblock(event: impl AsFd) {
    let is_full = poll_now(&event, PollFlags::OUT).is_some_and(|now| !now.contains(PollFlags::OUT));
    if is_full {
        let mut count = [0; 8];
        let mut into = [std::io::IoSliceMut::new(&mut count)];
        // It must not wait, whoever else reads. At the offset -1: where the file is.
        let flags = rustix::io::ReadWriteFlags::NOWAIT;
        // Where it was read already, all is well.
        let _ = rustix::io::preadv2(&event, &mut into, u64::MAX, flags);
    }
}

fn poll_now(fd: &impl AsFd, flags: PollFlags) -> Option<PollFlags> {
    let mut one = [PollFd::new(fd, flags)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut one, Some(&now)).ok()?;
    Some(one[0].revents())
}
