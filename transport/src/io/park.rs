//! Makes the runtime park, and with it submit what waits in the ring.

use std::{io, os::fd::OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::{Interest, unix::AsyncFd};

use super::engine::{self, Engine};

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

    /// Lets everything else on this thread go on: operations queued since the last call are
    /// submitted, completions, timers and other tasks are seen.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn breathe(&self) -> io::Result<()> {
        if engine::current() == Engine::Uring && engine::take_unsubmitted() {
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

/// The readiness that tokio remembers, if it does.
fn ready_now(event: &AsyncFd<OwnedFd>) -> Option<tokio::io::unix::AsyncFdReadyGuard<'_, OwnedFd>> {
    use std::task::{Context, Poll, Waker};
    match event.poll_read_ready(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(guard) => guard.ok(),
        Poll::Pending => None,
    }
}
