//! The queues of a device that has a driver.

use std::{mem, pin::pin, sync::Arc, time::Duration};

use fsrv_transport::{
    mem::GuestMap,
    virtqueue::{Prepared, QueueControl, Source},
};
use futures::future::{Either, join_all, select};
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{
    ActivateError, Queues,
    device::OnError,
    queues::{Timer, poll_of},
};
use crate::{fs::FileSystem, session::Session};

/// All queues of a device, in the order of their numbers.
pub(super) struct Active {
    map: GuestMap,
    pub(super) queues: Vec<Queue>,
    /// Until it is to go on.
    pub(super) is_paused: bool,
}

pub(super) struct Queue {
    source: Source,
    state: State,
}

enum State {
    /// Also one that the driver has not enabled.
    Stopped,
    Running(QueueControl),
    /// It was told to stop.
    Stopping(QueueControl),
}

/// What serving a queue takes.
pub(super) struct Serving<F> {
    pub(super) session: Arc<Session<F>>,
    pub(super) queues: Arc<Queues>,
    pub(super) poll: Duration,
    pub(super) on_error: Arc<OnError>,
}

/// A queue that can be served. Dropped in this order, it is no fault: nobody waits for it.
struct Ready {
    control: QueueControl,
    queue: Prepared,
}

impl Active {
    pub(super) fn new(map: GuestMap, sources: Vec<Source>) -> Self {
        let queue = |source| Queue { source, state: State::Stopped };
        Self { map, queues: sources.into_iter().map(queue).collect(), is_paused: false }
    }

    /// Starts those that are stopped. None of them when one cannot be.
    pub(super) fn start<F: FileSystem + 'static>(
        &mut self,
        serving: &Serving<F>,
    ) -> Result<(), ActivateError> {
        let mut ready = Vec::new();
        for (index, queue) in self.queues.iter().enumerate() {
            if matches!(queue.state, State::Stopped) && queue.source.is_ready() {
                ready.push((index, queue.prepare(index, &self.map, serving)?));
            }
        }
        for (index, Ready { control, queue }) in ready {
            self.queues[index].state = State::Running(control);
            serving.queues.serve(index as u16, queue, serving.session.clone());
        }
        self.is_paused = false;
        Ok(())
    }

    /// Tells all of them to stop.
    pub(super) fn pause(&mut self) {
        self.is_paused = true;
        self.queues.iter_mut().for_each(Queue::stop);
    }

    /// Waits for those that were told to stop. Returns whether they have, in time.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn until_stopped(&mut self, mut time: Timer) -> bool {
        for queue in &mut self.queues {
            let State::Stopping(control) = &mut queue.state else { continue };
            let stopped = match select(pin!(control.stopped()), &mut time).await {
                Either::Left((stopped, _)) => stopped,
                Either::Right(_) => return false,
            };
            if let Some(stopped) = stopped {
                queue.source.set_next(stopped.next);
            }
            queue.state = State::Stopped;
        }
        true
    }

    /// Uses `map` from now on, unless a ring would not be in it.
    pub(super) fn set_memory(&mut self, map: GuestMap) -> Result<Holding, ActivateError> {
        for (index, Queue { source, .. }) in self.queues.iter().enumerate() {
            if source.is_ready() {
                source.check(&map).map_err(|source| ActivateError::Queue { index, source })?;
            }
        }
        let departing = self.map.departing(&map);
        let mut holding = Vec::new();
        for (index, queue) in self.queues.iter().enumerate() {
            if let State::Running(control) | State::Stopping(control) = &queue.state {
                let config = queue.source.config().clone();
                let done = control.set_memory(config, map.clone(), departing.clone());
                holding.push((index, done));
            }
        }
        self.map = map;
        Ok(Holding(holding))
    }
}

impl Queue {
    /// The index of the next message to take.
    pub(super) fn next(&self) -> u16 {
        self.source.next()
    }

    fn stop(&mut self) {
        match mem::replace(&mut self.state, State::Stopped) {
            State::Running(control) => {
                control.stop();
                self.state = State::Stopping(control);
            }
            other => self.state = other,
        }
    }

    fn prepare<F: FileSystem>(
        &self,
        index: usize,
        map: &GuestMap,
        serving: &Serving<F>,
    ) -> Result<Ready, ActivateError> {
        let (protocol, on_error) = (serving.session.transport_config(), serving.on_error.clone());
        let poll = poll_of(index as u16, serving.poll);
        let on_fault = Box::new(move |fault| on_error(index, fault));
        let setup = self.source.setup(map.clone(), protocol, poll, on_fault)?;
        let (queue, control) =
            setup.prepare().map_err(|source| ActivateError::Queue { index, source })?;
        Ok(Ready { control, queue })
    }
}

/// Queues that may have requests in memory that goes away, and what each says when it has none.
pub(super) struct Holding(Vec<(usize, oneshot::Receiver<()>)>);

impl Holding {
    /// Waits until none has. Returns whether that was in time.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn until(&mut self, time: Timer) -> bool {
        // One that has ended has none either.
        let all = join_all(self.0.iter_mut().map(|(_, done)| done));
        matches!(select(all, time).await, Either::Left(_))
    }

    /// Tells those to stop that still have.
    pub(super) fn stop(mut self, active: &mut Active) {
        for (index, done) in &mut self.0 {
            if matches!(done.try_recv(), Err(TryRecvError::Empty)) {
                active.queues[*index].stop();
            }
        }
    }
}
