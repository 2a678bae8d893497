//! The device of a virtual machine monitor in this process.

use std::{io, sync::Arc, time::Duration};

use fsrv_transport::{
    mem::{GuestMap, Outside},
    virtqueue::{Prepared, QueueControl, QueueError, Source},
    vm_memory::GuestMemoryBackend,
};

use super::{
    ConfigSpace, FEATURES, Queues, Tag, VIRTIO_RING_F_EVENT_IDX, Workers, queues::poll_of,
};
use crate::{fs::FileSystem, init::Limits, session::Session, stats::SessionStats};

/// What a device is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name by which the guest mounts it.
    pub tag: Tag,
    /// Request queues, at least one.
    pub request_queues: u16,
    /// Which workers serve them.
    pub workers: Workers,
    /// How long a queue looks for the next message before it sleeps, while that pays; zero to sleep at
    /// once.
    pub poll: Duration,
}

/// A virtio-fs device for a virtual machine monitor written in async Rust.
///
/// It has worker threads of its own, so that any Tokio runtime may drive it. It installs no signal
/// handler and changes nothing of the process. Dropped, it stops its queues; what is in flight ends in
/// the background, and holds the guest's memory until then.
pub struct VirtioFs<F> {
    session: Arc<Session<F>>,
    queues: Queues,
    options: Options,
    state: State,
    /// The queues were told to stop, and nobody has waited for all of them.
    is_pausing: bool,
}

enum State {
    /// No driver, or one that was reset.
    Inactive,
    Running(GuestMap, Vec<Running>),
    Paused(GuestMap, Vec<Source>),
}

struct Running {
    source: Source,
    control: QueueControl,
    /// It has ended.
    is_stopped: bool,
}

/// Why a device could not be activated.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// It is active already.
    #[error("the device is active: reset it first")]
    Active,
    /// The driver took a feature that was not offered, or refused VIRTIO_F_VERSION_1.
    #[error("the device cannot be used with the features {0:#x}: it offers {FEATURES:#x}")]
    Features(u64),
    /// Queues are missing, or too many.
    #[error("the device has {expected} queues, and was given {given}")]
    QueueCount {
        /// What the device has.
        expected: usize,
        /// What it got.
        given: usize,
    },
    /// The guest's memory is not mapped into this process.
    #[error("a region of the guest's memory is not mapped into this process")]
    Memory,
    /// A ring is not in the guest's memory.
    #[error("queue {index} cannot be served")]
    Queue {
        /// Which.
        index: usize,
        /// Why.
        source: QueueError,
    },
    /// The kernel has no descriptor left.
    #[error("a queue cannot be served")]
    Io(#[from] io::Error),
}

impl<F: FileSystem + 'static> VirtioFs<F> {
    /// A device that serves `fs`, with its workers started.
    ///
    /// # Errors
    /// When a worker cannot be started.
    pub async fn new(fs: F, options: Options) -> io::Result<Self> {
        let session = Session::new(fs, Limits::default()).outliving_workers();
        let queues = Queues::start(&options.workers).await?;
        Ok(Self {
            session: Arc::new(session),
            queues,
            options,
            state: State::Inactive,
            is_pausing: false,
        })
    }

    /// The features that it offers.
    pub fn features(&self) -> u64 {
        FEATURES
    }

    /// How many queues it has: the high-priority queue, then the request queues.
    pub fn queue_count(&self) -> usize {
        1 + usize::from(self.options.request_queues.max(1))
    }

    /// Reads the configuration space from byte `offset` on; behind its end there are zeroes. It cannot be
    /// written.
    pub fn read_config(&self, offset: u64, into: &mut [u8]) {
        let request_queues = self.options.request_queues.max(1);
        ConfigSpace { tag: self.options.tag, request_queues }.read(offset, into);
    }

    /// What was done so far and what is held now.
    pub fn stats(&self) -> SessionStats {
        self.session.stats()
    }

    /// The driver is ready: serves its queues, in the order of their numbers.
    ///
    /// Changes of the memory are noted in the bitmaps that `memory` has.
    ///
    /// # Errors
    /// When it is active already, or cannot be served as it is configured; nothing is served then.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped before it ends, nothing has happened.
    pub async fn activate<M>(
        &mut self,
        memory: Arc<M>,
        features: u64,
        mut queues: Vec<Source>,
    ) -> Result<(), ActivateError>
    where
        M: GuestMemoryBackend + Send + Sync + 'static,
    {
        if !matches!(self.state, State::Inactive) {
            return Err(ActivateError::Active);
        }
        if features & !FEATURES != 0 || features & super::VIRTIO_F_VERSION_1 == 0 {
            return Err(ActivateError::Features(features));
        }
        if queues.len() != self.queue_count() {
            let (expected, given) = (self.queue_count(), queues.len());
            return Err(ActivateError::QueueCount { expected, given });
        }
        let map = GuestMap::of(memory).map_err(|Outside| ActivateError::Memory)?;
        for queue in &mut queues {
            queue.set_event_idx(features & VIRTIO_RING_F_EVENT_IDX != 0);
        }
        let prepared = self.prepare(&map, &queues)?;
        self.start(map, queues, prepared);
        Ok(())
    }

    /// Takes no more messages, and waits until those that were taken are answered. Locks that are waited
    /// for answer EINTR. Returns, for each queue, the index of the next message to take.
    ///
    /// A device that is not active has no queues to pause.
    ///
    /// # Cancel safety
    /// Dropped before it ends, the queues stop all the same: call it again to wait for them.
    pub async fn pause(&mut self) -> Vec<u16> {
        if let State::Running(map, queues) = &mut self.state {
            self.is_pausing = true;
            queues.iter().for_each(|queue| queue.control.stop());
            for queue in queues.iter_mut().filter(|queue| !queue.is_stopped) {
                if let Some(stopped) = queue.control.stopped().await {
                    queue.source.set_next(stopped.next);
                }
                queue.is_stopped = true;
            }
            let sources = queues.drain(..).map(|queue| queue.source).collect();
            self.state = State::Paused(std::mem::take(map), sources);
            self.is_pausing = false;
        }
        match &self.state {
            State::Paused(_, queues) => queues.iter().map(Source::next).collect(),
            State::Inactive | State::Running(..) => Vec::new(),
        }
    }

    /// Goes on where it was paused, or is about to be: a pause that was given up is waited for first. A
    /// device that is not paused goes on anyway.
    ///
    /// # Errors
    /// When the kernel has no descriptor left; the device stays paused.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn resume(&mut self) -> Result<(), ActivateError> {
        if self.is_pausing {
            self.pause().await;
        }
        let State::Paused(map, sources) = &self.state else { return Ok(()) };
        let prepared = self.prepare(map, sources)?;
        if let State::Paused(map, sources) = std::mem::replace(&mut self.state, State::Inactive) {
            self.start(map, sources, prepared);
        }
        Ok(())
    }

    /// Ends the queues as [`VirtioFs::pause`] does, and forgets the driver: its open files, its locks, and
    /// what it has looked up.
    ///
    /// # Cancel safety
    /// As [`VirtioFs::pause`].
    pub async fn reset(&mut self) {
        self.pause().await;
        self.state = State::Inactive;
        self.session.end();
    }

    fn prepare(
        &self,
        map: &GuestMap,
        sources: &[Source],
    ) -> Result<Vec<(Prepared, QueueControl)>, ActivateError> {
        let protocol = self.session.transport_config();
        let prepare = |(index, source): (usize, &Source)| {
            let poll = poll_of(index as u16, self.options.poll);
            let setup = source.setup(map.clone(), protocol, poll)?;
            setup.prepare().map_err(|source| ActivateError::Queue { index, source })
        };
        sources.iter().enumerate().map(prepare).collect()
    }

    fn start(
        &mut self,
        map: GuestMap,
        sources: Vec<Source>,
        prepared: Vec<(Prepared, QueueControl)>,
    ) {
        let mut running = Vec::new();
        for (index, (source, (queue, control))) in (0..).zip(sources.into_iter().zip(prepared)) {
            self.queues.serve(index, queue, self.session.clone());
            running.push(Running { source, control, is_stopped: false });
        }
        self.state = State::Running(map, running);
    }
}
