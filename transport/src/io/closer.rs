//! What keeps a CPU busy for long, beside everything else: freeing large files.

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use rustix::process::setpriority_process;
use tokio::sync::{oneshot, watch};

use super::{
    engine,
    pool::{on_pool, settle_new_thread},
    start::start_thread,
};

/// Freeing a file of so many bytes takes longer than going to another thread.
pub const LONG_TO_FREE: u64 = 16 << 20;

/// Closes files whose space then becomes free, one after the other, on a thread that lets others go first: who asked does
/// not wait. The thread starts when there is something for it.
///
/// When the closer is dropped, the thread goes on until everything is closed. Nobody waits for it: at the end of the
/// process the kernel closes what is left.
pub struct Closer {
    queue: Mutex<Option<mpsc::Sender<Box<dyn Send>>>>,
    given: AtomicU64,
    progress: Arc<Progress>,
}

/// How much is closed.
#[derive(Default)]
struct Progress {
    /// Asked before each write.
    closed: AtomicU64,
    /// The same number, for those who wait.
    news: watch::Sender<u64>,
}

impl Progress {
    fn count(&self) {
        let closed = self.closed.fetch_add(1, Ordering::SeqCst) + 1;
        self.news.send_modify(|news| *news = closed.max(*news));
    }
}

/// How far a [`Closer`] was.
#[derive(Clone, Copy, Debug)]
pub struct Closed(u64);

impl Closer {
    /// With nothing to close.
    pub fn new() -> Self {
        Self { queue: Mutex::default(), given: AtomicU64::new(0), progress: Arc::default() }
    }

    /// Drops `what`, which closes a descriptor. When there is no thread and none can be had, this thread's pool does it.
    pub fn close(&self, what: impl Send + 'static) {
        self.given.fetch_add(1, Ordering::SeqCst);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.is_none() {
            *queue = start(self.progress.clone())
                .inspect_err(|error| tracing::debug!("files are closed by the pool: {error}"))
                .ok();
        }
        let queued = match &*queue {
            Some(queue) => queue.send(Box::new(what)).map_err(|unsent| unsent.0),
            None => Err(Box::new(what) as Box<dyn Send>),
        };
        drop(queue);
        if let Err(what) = queued {
            let progress = self.progress.clone();
            engine::pool().later(move || {
                drop(what);
                progress.count();
            });
        }
    }

    /// How far it is: to be asked before something that may need room, for [`Closer::has_freed_since`].
    pub fn now(&self) -> Closed {
        Closed(self.progress.closed.load(Ordering::SeqCst))
    }

    /// Waits until everything is closed that it was given so far, and returns whether any of that was still open at
    /// `before`: there may be room now that was not there then.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn has_freed_since(&self, before: Closed) -> bool {
        let given = self.given.load(Ordering::SeqCst);
        if given == before.0 {
            return false;
        }
        // It cannot fail while `self` has the sender.
        let _ = self.progress.news.subscribe().wait_for(|&closed| closed >= given).await;
        true
    }
}

impl Default for Closer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (given, closed) = (self.given.load(Ordering::Relaxed), self.now().0);
        f.debug_struct("Closer").field("given", &given).field("closed", &closed).finish()
    }
}

/// Whether `error` says that a filesystem, or its user's share of it, is full.
pub fn is_no_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

fn start(progress: Arc<Progress>) -> io::Result<mpsc::Sender<Box<dyn Send>>> {
    let (sender, queue) = mpsc::channel::<Box<dyn Send>>();
    start_thread("fsrv-closer", move || {
        go_aside();
        for what in queue {
            // Whatever it is, the next ones are closed too.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(what)));
            progress.count();
        }
    })?;
    Ok(sender)
}

/// Runs `call`, which is known to keep a CPU busy for long, on a thread of its own that lets others go first: on its CPU
/// there may be a worker, or who waits for one.
///
/// # Errors
/// Only when `call` panicked, or there is neither a thread nor a pool.
///
/// # Cancel safety
/// When the future is dropped, the call still runs to its end.
pub async fn aside<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let call = Arc::new(Mutex::new(Some(call)));
    let take = |call: &Mutex<Option<_>>| call.lock().ok().and_then(|mut call| call.take());
    let (done, result) = oneshot::channel();
    let theirs = call.clone();
    let thread = start_thread("fsrv-aside", move || {
        go_aside();
        if let Some(call) = take(&theirs) {
            // Who asked may be gone.
            let _ = done.send(call());
        }
    });
    if thread.is_err()
        && let Some(call) = take(&call)
    {
        return on_pool(call).await;
    }
    engine::count_pool();
    result.await.map_err(io::Error::other)
}

/// Makes this new thread one that lets others go first.
fn go_aside() {
    settle_new_thread();
    let _ = setpriority_process(None, ASIDE);
    // A thread starts on the CPU of who started it. When one wakes, the kernel looks for an idle CPU.
    thread::sleep(MOMENT);
}

/// The nice value of a thread that lets others go first. Beside a CPU that others want it still gets a tenth: a
/// journal or a lock of the host may wait for it.
const ASIDE: i32 = 10;

const MOMENT: Duration = Duration::from_micros(20);

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells on which thread it was dropped, when it may.
    struct Open {
        may_close: mpsc::Receiver<()>,
        closed: mpsc::Sender<Option<String>>,
    }

    impl Drop for Open {
        fn drop(&mut self) {
            self.may_close.recv().unwrap();
            let _ = self.closed.send(thread::current().name().map(str::to_owned));
        }
    }

    fn open() -> (Open, mpsc::Sender<()>, mpsc::Receiver<Option<String>>) {
        let ((sender, may_close), (closed, receiver)) = (mpsc::channel(), mpsc::channel());
        (Open { may_close, closed }, sender, receiver)
    }

    #[tokio::test]
    async fn what_is_closed_slowly_is_waited_for_by_those_who_need_it() {
        let closer = Closer::new();
        let (file, let_go, closed) = open();
        let before = closer.now();
        assert!(!closer.has_freed_since(before).await, "nothing was given");

        closer.close(file);
        assert!(closed.try_recv().is_err(), "it is not waited for");
        let during = closer.now();
        let waiting = closer.has_freed_since(during);
        tokio::pin!(waiting);
        let soon = tokio::time::timeout(Duration::from_millis(20), &mut waiting);
        soon.await.expect_err("it is not closed yet");
        let_go.send(()).unwrap();

        assert!(waiting.await);
        assert_eq!(closed.recv().unwrap().as_deref(), Some("fsrv-closer"));
        assert!(closer.has_freed_since(before).await, "it was open then");
        assert!(!closer.has_freed_since(closer.now()).await);
    }

    #[tokio::test]
    async fn what_panics_in_closing_does_not_end_the_closer() {
        let closer = Closer::new();
        let before = closer.now();
        // It may not close, and says so by a panic.
        let (file, may_close, _closed) = open();
        drop(may_close);
        closer.close(file);
        assert!(closer.has_freed_since(before).await);
        let (file, let_go, closed) = open();
        let_go.send(()).unwrap();
        closer.close(file);
        assert_eq!(closed.recv().unwrap().as_deref(), Some("fsrv-closer"));
    }

    #[test]
    fn a_closer_that_is_dropped_closes_what_it_has() {
        let closer = Closer::new();
        let (file, let_go, closed) = open();
        closer.close(file);
        drop(closer);
        let_go.send(()).unwrap();
        assert_eq!(closed.recv().unwrap().as_deref(), Some("fsrv-closer"));
    }
}
