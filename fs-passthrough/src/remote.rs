//! Filesystems below the shared directory that belong to another machine or process, and may hang.
//!
//! Nothing that may ask one is done on a worker. What waits for one waits on threads of its own, and in a room of its own,
//! so that one that hangs stops nothing else.

use std::{
    future::Future,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fsrv::{Context, Errno, Parked, Result};
use fsrv_transport::io::Pool;
use tokio::select;

use crate::{filesystem::Memory, mutex::lock, sys::creds::prepare_worker};

/// Threads that wait for one remote filesystem, at most.
const THREADS: usize = 64;

/// How often an operator is told that too many requests wait for one.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// A remote filesystem, for those who wait for it.
pub(crate) struct Remote {
    pool: Arc<Pool>,
    /// Names it among those that are waited for.
    number: u64,
    /// Where it is mounted, for people.
    point: Option<PathBuf>,
    said: Mutex<Option<Instant>>,
}

impl Remote {
    pub(crate) fn new(point: Option<PathBuf>) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self {
            pool: Pool::prepared(THREADS, prepare_worker),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            point,
            said: Mutex::default(),
        }
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Runs `call` on a thread of its own.
    ///
    /// # Errors
    /// EIO when too many requests wait already. EINTR when this one is interrupted: the call may then still be made, and
    /// its result is dropped by the thread.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        cx: &Context,
        memory: Memory,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.wait(cx, memory, async { self.pool.run(call).await? }).await
    }

    /// Waits for what asks this filesystem, as one request among others.
    ///
    /// While `memory` is the client's an interrupt comes to nothing: the answer would come while the kernel still uses it.
    ///
    /// # Errors
    /// As [`Remote::run`].
    pub(crate) async fn wait<T>(
        &self,
        cx: &Context,
        memory: Memory,
        asking: impl Future<Output = io::Result<T>>,
    ) -> Result<T> {
        let _parked = self.park(cx)?;
        match memory {
            Memory::Ours => Ok(interruptible(cx, asking).await??),
            Memory::Client => Ok(asking.await?),
        }
    }

    /// Runs `call` on a thread of its own, sooner or later. Nobody waits for it.
    pub(crate) fn later(&self, call: impl FnOnce() + Send + 'static) {
        self.pool.later(call);
    }

    /// Takes a place among those who wait for this filesystem.
    ///
    /// # Errors
    /// EIO when there is none.
    pub(crate) fn park(&self, cx: &Context) -> Result<Parked> {
        cx.park_for(self.number).inspect_err(|_| self.say_full())
    }

    fn say_full(&self) {
        let mut said = lock(&self.said);
        if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            *said = Some(Instant::now());
            let point = self.point.as_ref().map(|point| point.display().to_string());
            let point = point.unwrap_or_else(|| "a remote filesystem".to_owned());
            tracing::warn!(
                "{point} does not answer, and too many requests wait for it: EIO to more"
            );
        }
    }
}

/// `asking`, unless the request is interrupted first.
///
/// # Errors
/// EINTR.
pub(crate) async fn interruptible<T>(cx: &Context, asking: impl Future<Output = T>) -> Result<T> {
    select! {
        biased;
        () = cx.interrupted() => Err(Errno::EINTR),
        result = asking => Ok(result),
    }
}
