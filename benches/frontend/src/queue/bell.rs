//! The two eventfds of a queue.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// How a driver and its device wake each other.
#[derive(Debug)]
pub struct Bell {
    kick: OwnedFd,
    call: OwnedFd,
    /// The connection: when it ends, nobody will call any more.
    peer: Option<OwnedFd>,
}

impl Bell {
    pub(super) fn new() -> Result<Self> {
        Ok(Bell { kick: new_eventfd()?, call: new_eventfd()?, peer: None })
    }

    /// Ends waits with an error when this connection ends.
    pub fn watch(&mut self, peer: BorrowedFd<'_>) -> Result<()> {
        let peer = peer.try_clone_to_owned().map_err(Error::std("cannot watch the connection"))?;
        self.peer = Some(peer);
        Ok(())
    }

    /// Makes a new pair, as after a restart of the ring.
    pub fn renew(&mut self) -> Result<()> {
        (self.kick, self.call) = (new_eventfd()?, new_eventfd()?);
        Ok(())
    }

    pub(super) fn kick_fd(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }

    pub(super) fn call_fd(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }

    pub(super) fn kick(&self) -> Result<()> {
        match rustix::io::write(&self.kick, &1u64.to_ne_bytes()) {
            // The counter is full: the device has been told often enough.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(Error::io("cannot kick")(errno)),
        }
    }

    /// Sleeps until a call, and takes it.
    pub(super) fn wait(&self, limit: Duration) -> Result<()> {
        let limit = Timespec::try_from(limit)
            .unwrap_or(Timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 });
        let mut fds = [
            PollFd::new(&self.call, PollFlags::IN),
            PollFd::from_borrowed_fd(
                self.peer.as_ref().map_or(self.call.as_fd(), AsFd::as_fd),
                PollFlags::RDHUP,
            ),
        ];
        match poll(&mut fds, Some(&limit)) {
            Ok(0) => return Err(Error::Timeout("used entry")),
            Ok(_) => (),
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(Error::io("cannot wait for a call")(errno)),
        }
        let called = fds[0].revents().contains(PollFlags::IN);
        let gone = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        if !called && fds[1].revents().intersects(gone) {
            return Err(Error::Gone);
        }
        self.drain();
        Ok(())
    }

    /// Takes a call if there is one.
    pub(super) fn drain(&self) -> bool {
        rustix::io::read(&self.call, &mut [0; 8]).is_ok()
    }

    /// Takes a call if there is one, and tells.
    pub fn was_called(&self) -> bool {
        self.drain()
    }
}

fn new_eventfd() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(Error::io("cannot make an eventfd"))
}
