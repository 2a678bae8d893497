//! The workers that serve the queues of devices.

use std::{io, sync::Arc, time::Duration};

use fsrv_transport::{
    io::Engine,
    virtqueue::Prepared,
    worker::{Host, Worker},
};
use tokio::{sync::oneshot, time::sleep};

use crate::{fs::FileSystem, serve::serve, session::Session};

/// Which workers a device has.
#[derive(Clone, Debug)]
pub struct Workers {
    /// Workers for request queues, at least one. A queue stays with its worker.
    pub count: usize,
    /// How they do file I/O.
    pub engine: Engine,
    /// What each does first, see [`Host::start`].
    pub prepare: fn() -> io::Result<()>,
}

/// Ends when a time is over, or when there is no worker that would tell.
pub(super) type Timer = oneshot::Receiver<()>;

/// The workers that serve the queues of one device, or of several one after the other.
///
/// The high-priority queue has a worker of its own, so that it never waits for a request queue.
pub struct Queues {
    high_priority: Host,
    requests: Vec<Host>,
}

impl Queues {
    /// Starts the workers.
    ///
    /// # Errors
    /// When a thread cannot be made, or cannot begin.
    pub async fn start(workers: &Workers) -> io::Result<Self> {
        // It forgets, and does no file I/O that could wait.
        let worker = Worker { name: "fsrv-hiprio".into(), cpu: None, engine: Engine::Threads };
        let high_priority = Host::start(worker, workers.prepare).await?;
        let mut requests = Vec::new();
        for index in 0..workers.count.max(1) {
            let (name, engine) = (format!("fsrv-{index}"), workers.engine);
            requests.push(Host::start(Worker { name, cpu: None, engine }, workers.prepare).await?);
        }
        Ok(Self { high_priority, requests })
    }

    #[cfg(test)]
    pub(super) fn end_request_workers(&self) {
        for host in &self.requests {
            host.run(|| -> std::future::Ready<()> { panic!("outside of what it serves") });
        }
    }

    /// What is over after `time`, in whatever runtime it is waited for.
    pub(super) fn timer(&self, time: Duration) -> Timer {
        let (mut over, timer) = oneshot::channel();
        self.high_priority.run(move || async move {
            tokio::select! {
                () = sleep(time) => {}
                () = over.closed() => {}
            }
            // Whoever waited may be gone.
            let _ = over.send(());
        });
        timer
    }

    /// Serves `queue`, the one with number `index`, until it is stopped.
    pub(super) fn serve<F>(&self, index: u16, queue: Prepared, session: Arc<Session<F>>)
    where
        F: FileSystem + 'static,
    {
        let host = match usize::from(index).checked_sub(1) {
            None => &self.high_priority,
            Some(index) => &self.requests[index % self.requests.len()],
        };
        host.run(move || async move {
            let served = match queue.activate() {
                Ok(transport) => serve(transport, &*session).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::warn!("queue {index} cannot be served: {error}");
            }
        });
    }
}

/// How long the queue with number `index` polls when request queues do so for `poll`. Nobody waits for what
/// the high-priority queue carries: looking for it would take a CPU from those who are waited for.
pub(super) fn poll_of(index: u16, poll: Duration) -> Duration {
    if index == 0 { Duration::ZERO } else { poll }
}
