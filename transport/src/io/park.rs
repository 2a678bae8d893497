//! Makes the runtime park, and with it submit what waits in the ring.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::event::{EventfdFlags, eventfd};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep,
};

use super::engine;

/// A disk that has nothing to do waits for the worker to have taken all requests there are. Submitting
/// each operation by itself costs more than that.
const SUBMIT_AT: u32 = 2;

/// Makes the runtime of this thread park once, without waiting.
///
/// tokio-uring submits only when its runtime parks, and a loop that always has a request ready
/// never lets it. Here the loop waits for an event that is already there: nothing else is ready, so
/// the runtime parks and submits, and epoll returns at once.
pub struct Parker {
    event: AsyncFd<OwnedFd>,
}

impl Parker {
    /// For the runtime of the calling thread.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        // SAFETY: an `OwnedFd` is open, and the same, until it is dropped.
        let event = unsafe { AsyncFd::register_with_interest(event, Interest::READABLE) }?;
        Ok(Self { event })
    }

    /// Whether so many operations are queued that the disk should have them now, although more
    /// requests may be there.
    pub fn is_due(&self) -> bool {
        engine::unsubmitted() >= SUBMIT_AT
    }

    /// Lets everything else on this thread go on: operations queued since the last call are
    /// submitted, completions, timers and other tasks are seen.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn breathe(&self) -> io::Result<()> {
        if engine::unsubmitted() > 0 {
            engine::submitted();
            self.park().await
        } else {
            tokio::task::yield_now().await;
            Ok(())
        }
    }

    async fn park(&self) -> io::Result<()> {
        // The order matters: forget the readiness that tokio remembers, then cause a new one, so
        // that only a real look at epoll can find it.
        if let Some(mut guard) = ready_now(&self.event) {
            guard.clear_ready();
        }
        rustix::io::write(self.event.get_ref(), &1u64.to_ne_bytes())?;
        let mut guard = self.event.readable().await?;
        rustix::io::read(self.event.get_ref(), &mut [0; 8])?;
        guard.clear_ready();
        Ok(())
    }
}

/// How long an operation waits that the kernel did not take.
const AGAIN: Duration = Duration::from_millis(100);

/// Sees to it that what is queued for the ring reaches the kernel. When that has no memory (EAGAIN), tokio-uring tells
/// nobody and offers it again when its runtime parks the next time, for which there may be no other reason.
pub(crate) async fn offer_again() {
    loop {
        engine::ring_used().await;
        let counters = engine::counters();
        loop {
            let before = counters.ring();
            sleep(AGAIN).await;
            if counters.ring() == before && engine::in_ring() == 0 {
                break;
            }
        }
        engine::ring_is_idle();
    }
}

/// The readiness that tokio remembers, if it does.
fn ready_now(event: &AsyncFd<OwnedFd>) -> Option<tokio::io::unix::AsyncFdReadyGuard<'_, OwnedFd>> {
    use std::task::{Context, Poll, Waker};
    match event.poll_read_ready(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(guard) => guard.ok(),
        Poll::Pending => None,
    }
}
