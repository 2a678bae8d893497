//! The device of a virtual machine monitor in this process.

use std::{fmt, io, sync::Arc, time::Duration};

use fsrv_transport::{
    mem::{GuestMap, Outside},
    virtqueue::{QueueError, QueueFault, Source},
    vm_memory::GuestMemoryBackend,
};

use super::{
    ConfigSpace, FEATURES, Queues, Tag, VIRTIO_RING_F_EVENT_IDX, Workers,
    active::{Active, Queue, Serving},
};
use crate::{fs::FileSystem, init::Limits, op::Opcode, session::Session, stats::SessionStats};

/// How long a pause waits for requests, as long as a front-end's are waited for that has left.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);

/// After so long, a queue that still has requests in memory that goes away is stopped and started again: those who wait
/// for a lock end, and ask again.
const HOLD_LIMIT: Duration = Duration::from_secs(1);

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
/// It has worker threads of its own, so that any executor may drive it. It installs no signal
/// handler and changes nothing of the process. Dropped, it stops its queues; what is in flight ends in
/// the background, and holds the guest's memory until then.
pub struct VirtioFs<F> {
    session: Arc<Session<F>>,
    pub(super) queues: Arc<Queues>,
    options: Options,
    on_error: Arc<OnError>,
    /// `None` without a driver, or with one that was reset.
    active: Option<Active>,
}

/// What is told that a queue, by its number, is not served any more.
pub(super) type OnError = dyn Fn(usize, QueueFault) + Send + Sync;

/// Why a device could not be activated, or cannot go on.
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
    /// What was in flight before does not end.
    #[error(transparent)]
    Unfinished(#[from] Unfinished),
}

/// Requests that did not end in time. They are given up, not ended: they go on in the background, and write to the
/// guest's memory, which they hold, until they end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("requests do not end: {}", Listed(.requests))]
pub struct Unfinished {
    /// The number of each, and what it asks for.
    pub requests: Vec<(u64, Opcode)>,
}

struct Listed<'a>(&'a [(u64, Opcode)]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (unique, opcode)) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{} {unique}", opcode.name())?;
        }
        Ok(())
    }
}

impl<F: FileSystem + 'static> VirtioFs<F> {
    /// A device that serves `fs`, with its workers started.
    ///
    /// # Errors
    /// When a worker cannot be started.
    pub async fn new(fs: F, options: Options) -> io::Result<Self> {
        let session = Session::new(fs, Limits::default()).outliving_workers();
        let queues = Arc::new(Queues::start(&options.workers).await?);
        Ok(Self {
            session: Arc::new(session),
            queues,
            options,
            on_error: Arc::new(|_, _| {}),
            active: None,
        })
    }

    /// Calls `hook` when a queue, by its number, is not served any more although nobody has stopped it. Its guest waits
    /// for ever then, unless the monitor sets DEVICE_NEEDS_RESET (0x40) in the status of the device and interrupts
    /// the guest for a change of the configuration; a driver that understands that resets the device.
    ///
    /// It is called on a worker, once for each time that the queue is started, and must not wait.
    #[must_use]
    pub fn on_error(mut self, hook: impl Fn(usize, QueueFault) + Send + Sync + 'static) -> Self {
        self.on_error = Arc::new(hook);
        self
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

    /// The driver is ready: serves its queues, in the order of their numbers. Those that it has not enabled are
    /// left alone.
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
        if self.active.is_some() {
            return Err(ActivateError::Active);
        }
        if features & !FEATURES != 0 || features & super::VIRTIO_F_VERSION_1 == 0 {
            return Err(ActivateError::Features(features));
        }
        if queues.len() != self.queue_count() {
            let (expected, given) = (self.queue_count(), queues.len());
            return Err(ActivateError::QueueCount { expected, given });
        }
        let map = map_of(memory)?;
        for queue in &mut queues {
            queue.set_event_idx(features & VIRTIO_RING_F_EVENT_IDX != 0);
        }
        let mut active = Active::new(map, queues);
        active.start(&self.serving())?;
        self.active = Some(active);
        Ok(())
    }

    /// Takes no more messages, and waits until those that were taken are answered. Locks that are waited
    /// for answer EINTR. Returns, for each queue, the index of the next message to take.
    ///
    /// A device that is not active has no queues to pause.
    ///
    /// # Errors
    /// [`Unfinished`] after five seconds. The queues take no more messages all the same: call it again to wait
    /// further, or [`VirtioFs::resume`] to go on.
    ///
    /// # Cancel safety
    /// Dropped before it ends, the queues stop all the same: call it again to wait for them.
    pub async fn pause(&mut self) -> Result<Vec<u16>, Unfinished> {
        let Some(active) = &mut self.active else { return Ok(Vec::new()) };
        active.pause();
        self.until_stopped().await?;
        let queues = self.active.iter().flat_map(|active| &active.queues);
        Ok(queues.map(Queue::next).collect())
    }

    /// Goes on where it was paused, or is about to be: a pause that was given up is waited for first. A
    /// device that is not paused goes on anyway.
    ///
    /// # Errors
    /// When the kernel has no descriptor left, or what was in flight does not end, after five seconds; the device
    /// stays paused.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn resume(&mut self) -> Result<(), ActivateError> {
        self.until_stopped().await?;
        let serving = self.serving();
        self.active.as_mut().map_or(Ok(()), |active| active.start(&serving))
    }

    /// Uses `memory` from now on: regions were added or removed, as memory is plugged in and out. What was taken
    /// from a queue before keeps the memory that it was found in. Returns when none of that is in a region any more
    /// that `memory` does not have, or has elsewhere in this process.
    ///
    /// A queue whose requests hold such a region for a second is stopped, as [`VirtioFs::pause`] does, and started again.
    ///
    /// A device that is not active has no memory.
    ///
    /// # Errors
    /// [`ActivateError::Memory`], and [`ActivateError::Queue`] for a ring that would not be in memory any more:
    /// nothing has changed then. [`ActivateError::Unfinished`] when requests hold a region that goes for five more
    /// seconds, and [`ActivateError::Io`] when no descriptor is left: `memory` is used, and a queue may be stopped;
    /// [`VirtioFs::resume`] lets it go on.
    ///
    /// # Cancel safety
    /// Dropped before it ends, `memory` is used all the same, and a queue may be stopped: [`VirtioFs::resume`] lets
    /// it go on. Regions that go may be in use until a later [`VirtioFs::pause`] ends.
    pub async fn update_memory<M>(&mut self, memory: Arc<M>) -> Result<(), ActivateError>
    where
        M: GuestMemoryBackend + Send + Sync + 'static,
    {
        let map = map_of(memory)?;
        let Some(active) = &mut self.active else { return Ok(()) };
        let mut holding = active.set_memory(map)?;
        let was_paused = active.is_paused;
        let time = self.queues.timer(HOLD_LIMIT);
        if holding.until(time).await {
            return Ok(());
        }
        let Some(active) = &mut self.active else { return Ok(()) };
        holding.stop(active);
        self.until_stopped().await?;
        if was_paused { Ok(()) } else { self.resume().await }
    }

    /// Ends the queues as [`VirtioFs::pause`] does, and forgets the driver: its open files, its locks, and
    /// what it has looked up.
    ///
    /// # Errors
    /// [`Unfinished`] after five seconds: the device is paused, and not reset. Call it again, or drop the device and make
    /// another one: what does not end keeps its memory and its files.
    ///
    /// # Cancel safety
    /// As [`VirtioFs::pause`].
    pub async fn reset(&mut self) -> Result<(), Unfinished> {
        self.pause().await?;
        self.active = None;
        self.session.end();
        Ok(())
    }

    /// Waits for the queues that were told to stop.
    async fn until_stopped(&mut self) -> Result<(), Unfinished> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let stopped = active.until_stopped(self.queues.timer(PAUSE_LIMIT)).await;
        let unfinished = || Unfinished { requests: self.session.in_flight() };
        if stopped { Ok(()) } else { Err(unfinished()) }
    }

    fn serving(&self) -> Serving<F> {
        Serving {
            session: self.session.clone(),
            queues: self.queues.clone(),
            poll: self.options.poll,
            on_error: self.on_error.clone(),
        }
    }
}

fn map_of<M>(memory: Arc<M>) -> Result<GuestMap, ActivateError>
where
    M: GuestMemoryBackend + Send + Sync + 'static,
{
    GuestMap::of(memory).map_err(|Outside| ActivateError::Memory)
}
