//! One ring, as the front-end has described it so far.

use std::{fs::File, os::fd::OwnedFd, sync::Arc};

use rustix::{
    fs::{FileType, fstat},
    io::{FdFlags, fcntl_setfd},
};

use super::{
    Device, connection::Connection, error::Refusal, log::Log, memory::Memory, signal::Signal,
};
use crate::virtqueue::{OnFault, QueueConfig, QueueControl, QueueFault, Setup};

/// A ring: stopped, unless it is `running`.
pub(super) struct Ring {
    pub(super) index: u16,
    pub(super) size: u16,
    pub(super) address: Option<Address>,
    /// The index of the next message, while it is stopped.
    pub(super) next: u16,
    pub(super) kick: Option<OwnedFd>,
    /// Tells the guest of answers.
    pub(super) call: Arc<Signal>,
    /// Tells the front-end that the ring cannot be served.
    pub(super) error: Arc<Signal>,
    pub(super) is_enabled: bool,
    pub(super) running: Option<Running>,
}

/// A ring that a worker serves.
pub(super) struct Running {
    pub(super) control: QueueControl,
    pub(super) event_idx: bool,
}

/// Where a ring is, in addresses of the front-end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Address {
    pub(super) desc: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
    /// Where writes to the used ring are noted in the dirty log: an address of the guest.
    pub(super) used_log: Option<u64>,
}

/// Which descriptor of a ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    Kick,
    Call,
    Error,
}

impl Ring {
    pub(super) fn new(index: u16) -> Self {
        Self {
            index,
            size: 0,
            address: None,
            next: 0,
            kick: None,
            call: Arc::default(),
            error: Arc::default(),
            is_enabled: false,
            running: None,
        }
    }

    /// Whether it is all there for serving it. A ring without an enabled state is gated by nothing.
    pub(super) fn is_ready(&self, is_gated: bool) -> bool {
        let is_complete = self.size > 0 && self.address.is_some() && self.kick.is_some();
        is_complete && (self.is_enabled || !is_gated)
    }

    /// Where it is in the guest's memory.
    pub(super) fn config(&self, memory: &Memory, event_idx: bool) -> Result<QueueConfig, Refusal> {
        let address =
            self.address.unwrap_or(Address { desc: 0, avail: 0, used: 0, used_log: None });
        let find = |address| {
            let nowhere = Refusal::Nowhere { index: self.index, address };
            memory.guest_of(address).ok_or(nowhere)
        };
        Ok(QueueConfig {
            size: self.size,
            desc: find(address.desc)?,
            avail: find(address.avail)?,
            used: find(address.used)?,
            event_idx,
            next_avail: self.next,
            next_used: None,
            used_log: address.used_log,
        })
    }

    /// Gives it to a worker.
    pub(super) fn start<D: Device + ?Sized>(
        &mut self,
        device: &D,
        memory: &Memory,
        log: &Arc<Log>,
        event_idx: bool,
        connection: &Arc<Connection>,
    ) -> Result<(), Refusal> {
        let Some(kick) = &self.kick else { return Ok(()) };
        let setup = Setup {
            config: self.config(memory, event_idx)?,
            map: memory.map(log),
            kick: kick.try_clone()?,
            call: Some(self.call.call()),
            on_fault: Some(self.on_fault(connection)),
            protocol: device.protocol(),
            poll: device.poll(self.index),
        };
        let ring = |cause| Refusal::Ring { index: self.index, cause };
        let (prepared, control) = setup.prepare().map_err(ring)?;
        // The guest is told once, by the worker: what was answered before may have been told to nobody.
        self.call.renew();
        self.call.ask(&control);
        device.serve(self.index, prepared);
        self.running = Some(Running { control, event_idx });
        Ok(())
    }

    fn on_fault(&self, connection: &Arc<Connection>) -> OnFault {
        let (error, connection) = (self.error.clone(), connection.clone());
        Box::new(move |fault| {
            error.send();
            if fault == QueueFault::Unserved {
                connection.lose_worker();
            }
        })
    }

    /// Changes how the guest is told of answers.
    pub(super) fn set_call(&self, call: Option<OwnedFd>) {
        self.call.set(call);
        if let Some(running) = &self.running {
            self.call.ask(&running.control);
        }
    }

    /// Lets its worker go on where the front-end makes it wait.
    pub(super) fn unblock(&self) {
        self.call.unblock();
        self.error.unblock();
    }

    /// Tells nobody anything any more.
    pub(super) fn fall_silent(&self) {
        self.call.set(None);
        self.error.set(None);
    }
}

/// Takes `file` as an eventfd, which is what every front-end gives: a pipe, a socket or a file could make
/// whoever writes to it wait, or change something.
pub(super) fn event(index: u16, file: File, event: Event) -> Result<OwnedFd, Refusal> {
    let what = match event {
        Event::Kick => "kick",
        Event::Call => "call",
        Event::Error => "error",
    };
    let stat = fstat(&file).map_err(std::io::Error::from)?;
    // Anonymous inodes, as eventfds are, have no type.
    if FileType::from_raw_mode(stat.st_mode) != FileType::Unknown {
        return Err(Refusal::NoEvent { index, what });
    }
    fcntl_setfd(&file, FdFlags::CLOEXEC).map_err(std::io::Error::from)?;
    Ok(file.into())
}
