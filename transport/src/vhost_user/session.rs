//! What one front-end has set up, and its rings as they start and stop.

use std::{
    future::Future,
    os::unix::net::UnixStream,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Device,
    connection::Connection,
    error::{MemoryError, Refusal},
    log::Log,
    memory::{Memory, Ranges},
    rings::{Address, Ring},
    wait::{TICK, wait},
};
use crate::virtqueue::{self, VIRTIO_RING_F_EVENT_IDX};

/// VHOST_USER_F_PROTOCOL_FEATURES.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// VHOST_F_LOG_ALL.
const LOG_ALL: u64 = 1 << 26;

/// What is offered.
pub(super) const FEATURES: u64 = virtqueue::FEATURES | PROTOCOL_FEATURES | LOG_ALL;

/// After so long somebody is told for whom the front-end waits: QEMU waits under its big lock, and the
/// whole guest with it.
const REPORT_AFTER: Duration = Duration::from_secs(1);

/// So often it is told again.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// How long requests of a front-end that has left may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// One front-end.
pub(super) struct Session<D: ?Sized> {
    pub(super) device: Arc<D>,
    pub(super) connection: Arc<Connection>,
    pub(super) features: u64,
    pub(super) protocol_features: u64,
    pub(super) memory: Memory,
    pub(super) log: Arc<Log>,
    pub(super) rings: Vec<Ring>,
    /// Why the message that is being handled was refused.
    pub(super) refusal: Option<Refusal>,
    /// When the front-end has left: until when to wait for its requests.
    give_up: Option<Instant>,
}

impl<D: Device + ?Sized> Session<D> {
    pub(super) fn new(socket: UnixStream, device: Arc<D>) -> Self {
        Self {
            rings: (0..device.queues_max()).map(Ring::new).collect(),
            device,
            connection: Arc::new(Connection::new(socket)),
            features: 0,
            protocol_features: 0,
            memory: Memory::default(),
            log: Arc::default(),
            refusal: None,
            give_up: None,
        }
    }

    pub(super) fn ring(&mut self, index: u32) -> Result<&mut Ring, Refusal> {
        let max = self.device.queues_max();
        self.rings.get_mut(index as usize).ok_or(Refusal::NoQueue { index, max })
    }

    /// A ring that does not run.
    pub(super) fn stopped_ring(&mut self, index: u32) -> Result<&mut Ring, Refusal> {
        let ring = self.ring(index)?;
        match ring.running {
            None => Ok(ring),
            Some(_) => Err(Refusal::Running { index: ring.index }),
        }
    }

    /// Starts the ring if everything is there that it needs, stops it if something is missing.
    pub(super) fn settle(&mut self, index: u32) -> Result<(), Refusal> {
        let is_gated = self.features & PROTOCOL_FEATURES != 0;
        let event_idx = self.features & VIRTIO_RING_F_EVENT_IDX != 0;
        let ring = self.ring(index)?;
        let (is_ready, runs) = (ring.is_ready(is_gated), ring.running.is_some());
        if runs && !is_ready {
            return self.stop(index);
        }
        if is_ready && !runs {
            let ring = &mut self.rings[index as usize];
            let (device, connection) = (&*self.device, &self.connection);
            return ring.start(device, &self.memory, &self.log, event_idx, connection);
        }
        Ok(())
    }

    /// Takes no more messages from the ring, and waits until those that were taken are answered.
    pub(super) fn stop(&mut self, index: u32) -> Result<(), Refusal> {
        let ring = self.ring(index)?;
        let index = ring.index;
        let Some(mut running) = ring.running.take() else { return Ok(()) };
        running.control.stop();
        let what = format!("queue {index} to stop");
        let stopped = self.wait_for(&what, None, running.control.stopped());
        let ring = &mut self.rings[usize::from(index)];
        match stopped {
            Waited::Done(Some(stopped)) => ring.next = stopped.next,
            Waited::Done(None) => return Err(Refusal::WorkerEnded { index }),
            Waited::NotYet | Waited::Left => {
                ring.running = Some(running);
                return Err(Refusal::Left);
            }
        }
        Ok(())
    }

    /// Stops the ring and starts it with what is set now.
    pub(super) fn restart(&mut self, index: u32) -> Result<(), Refusal> {
        self.stop(index)?;
        self.settle(index)
    }

    /// Moves the ring, or changes only whether it is logged, as QEMU does when it begins to move a guest.
    pub(super) fn set_address(&mut self, index: u32, address: Address) -> Result<(), Refusal> {
        let ring = self.ring(index)?;
        let before = ring.address.replace(address);
        let Some(running) = &ring.running else { return self.settle(index) };
        if before.is_some_and(|before| Address { used_log: address.used_log, ..before } == address)
        {
            running.control.set_used_log(address.used_log);
            return Ok(());
        }
        self.restart(index)
    }

    pub(super) fn set_features(&mut self, features: u64) -> Result<(), Refusal> {
        if features & !FEATURES != 0 {
            return Err(Refusal::Features(features & !FEATURES));
        }
        self.features = features;
        self.log.switch(features & LOG_ALL != 0);
        let event_idx = features & VIRTIO_RING_F_EVENT_IDX != 0;
        for index in 0..self.rings.len() as u32 {
            let running = self.rings[index as usize].running.as_ref();
            if running.is_some_and(|running| running.event_idx != event_idx) {
                self.stop(index)?;
            }
            self.settle(index)?;
        }
        Ok(())
    }

    /// Uses `memory` from now on. Returns when no request is in `departing` any more.
    pub(super) fn set_memory(&mut self, memory: Memory, departing: Ranges) -> Result<(), Refusal> {
        let mut orders = Vec::new();
        for ring in &self.rings {
            if let Some(running) = &ring.running {
                let in_use = |_| MemoryError::InUse { index: ring.index };
                let config = ring.config(&memory, running.event_idx).map_err(in_use)?;
                orders.push((u32::from(ring.index), config));
            }
        }
        self.memory = memory;
        let mut waiting = Vec::new();
        for (index, config) in orders {
            let Some(running) = &self.rings[index as usize].running else { continue };
            let map = self.memory.map(&self.log);
            waiting.push((index, running.control.set_memory(config, map, departing.clone())));
        }
        for (index, mut done) in waiting {
            let what = format!("queue {index} to let go of memory");
            match self.wait_for(&what, Some(REPORT_AFTER), &mut done) {
                // An error says that the queue has ended, and with it what it had taken.
                Waited::Done(_) => {}
                // Requests that wait for other clients end when their queue is stopped.
                Waited::NotYet => self.restart(index)?,
                Waited::Left => return Err(Refusal::Left),
            }
        }
        Ok(())
    }

    /// Stops all rings; what they were told stays, but they need to be enabled again.
    pub(super) fn disable_all(&mut self) -> Result<(), Refusal> {
        for ring in &mut self.rings {
            ring.is_enabled = false;
            if let Some(running) = &ring.running {
                running.control.stop();
            }
        }
        (0..self.rings.len() as u32).try_for_each(|index| self.stop(index))
    }

    /// Stops all rings after the front-end has left. Returns whether all is done that it had asked for.
    pub(super) fn end(&mut self) -> bool {
        // A front-end that was refused learns it now.
        self.connection.hang_up();
        self.give_up = Some(Instant::now() + DRAIN);
        for ring in &self.rings {
            if let Some(running) = &ring.running {
                running.control.stop();
            }
        }
        let mut is_done = true;
        for index in 0..self.rings.len() as u32 {
            if let Err(Refusal::Left) = self.stop(index) {
                is_done = false;
            }
        }
        // Nobody would let a worker go on that waits for this front-end.
        self.rings.iter().for_each(Ring::fall_silent);
        self.rings.iter().for_each(Ring::unblock);
        is_done
    }

    /// Waits for `future`, for `limit` if there is one, while the front-end is there, or until it is given up.
    fn wait_for<F: Future>(
        &self,
        what: &str,
        limit: Option<Duration>,
        future: F,
    ) -> Waited<F::Output> {
        let mut future = pin!(future);
        let began = Instant::now();
        let mut report_at = REPORT_AFTER;
        loop {
            if let Some(output) = wait(future.as_mut(), TICK) {
                return Waited::Done(output);
            }
            let is_left = match self.give_up {
                Some(end) => Instant::now() >= end,
                None => !self.connection.is_alive(),
            };
            if is_left {
                return Waited::Left;
            }
            let elapsed = began.elapsed();
            if limit.is_some_and(|limit| elapsed >= limit) {
                return Waited::NotYet;
            }
            if elapsed >= report_at {
                report_at += REPORT_EVERY;
                self.report(what, elapsed);
            }
            if elapsed >= REPORT_AFTER || self.give_up.is_some() {
                self.rings.iter().for_each(Ring::unblock);
            }
        }
    }

    fn report(&self, what: &str, elapsed: Duration) {
        let in_flight = self.device.in_flight().join(", ");
        tracing::warn!(?elapsed, in_flight, "the front-end waits for {what}");
    }
}

/// How waiting ended.
enum Waited<T> {
    Done(T),
    /// The time was over.
    NotYet,
    /// The front-end has left, or it has left and the time for its requests is over.
    Left,
}
