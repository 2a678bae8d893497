//! Threads that make blocking calls, for futures that wait for them.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{engine, pool::settle_new_thread, size_limit, start::start_thread};

/// A thread that had nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(10);

/// The threads of one worker, at most. Whoever waits behind them waits for the host.
const OF_WORKER: usize = 512;

/// Threads for blocking calls. They are started when a call finds none free, and end when they have had nothing to do for
/// a while. What all of them wait for delays no other pool.
pub struct Pool(Arc<Shared>);

impl Pool {
    /// At most `max_threads` threads; more calls than these wait for one. None of them runs on the thread that asks: when
    /// there is no thread at all, and none can be had, a call fails with EIO.
    ///
    /// A new thread inherits what is a thread's own, such as capabilities, from the one whose call it is started for.
    pub fn new(max_threads: usize) -> Arc<Self> {
        Self::prepared(max_threads, || Ok(()))
    }

    /// As [`Pool::new`]. `prepare` runs first on each of the threads, which may be started by any thread of the process;
    /// when it fails, each call that this thread takes fails with EIO.
    pub fn prepared(max_threads: usize, prepare: fn() -> io::Result<()>) -> Arc<Self> {
        Arc::new(Self(Arc::new(Shared::new(max_threads.max(1), prepare))))
    }

    /// As [`Pool::new`]. The first thread is there from the start, and stays.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn ready(max_threads: usize) -> io::Result<Arc<Self>> {
        Self::started(Shared::new(max_threads, || Ok(())))
    }

    /// The threads of a worker.
    ///
    /// # Errors
    /// When the first cannot be had, which stays.
    pub(crate) fn of_worker() -> io::Result<Arc<Self>> {
        Self::started(Shared::inline(OF_WORKER))
    }

    fn started(shared: Shared) -> io::Result<Arc<Self>> {
        let pool = Self(Arc::new(Shared { kept: 1, ..shared }));
        pool.0.start_thread(&mut pool.0.lock())?;
        Ok(Arc::new(pool))
    }

    /// Threads for one that is no worker.
    pub(crate) fn of_others() -> Arc<Self> {
        Arc::new(Self(Arc::new(Shared::inline(OF_WORKER))))
    }

    /// Makes `call` on one of the threads.
    ///
    /// # Errors
    /// When `call` panicked, or EIO when there is no thread.
    ///
    /// # Cancel safety
    /// When the future is dropped before the call began, it is never made. Afterwards it runs to its end, and
    /// its result is dropped by a thread of the pool.
    pub async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        engine::count_pool();
        let task = Arc::new(Task::new(call));
        let number = match self.0.hand_over(task.clone(), Unless::NoThread) {
            Some(number) => number,
            None if self.0.may_run_inline => {
                size_limit::guarded(|| task.run());
                0
            }
            None => return Err(io::Error::from_raw_os_error(libc::EIO)),
        };
        Waiting { pool: &self.0, task, number }.await
    }

    /// Makes `call` on one of the threads, and tells nobody of its end. Without a thread, it is made here by a pool that
    /// may do so; by others when there is one.
    pub fn later(&self, call: impl FnOnce() + Send + 'static) {
        self.0.later(call);
    }
}

impl Drop for Pool {
    /// The threads end when they have done what is queued; nobody waits for them.
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.is_closed = true;
        if queue.threads == 0 && !queue.jobs.is_empty() && self.0.start_thread(&mut queue).is_err()
        {
            // What may only be done by a thread of the pool is not done by this one.
            mem::forget(mem::take(&mut queue.jobs));
        }
        drop(queue);
        self.0.work.notify_all();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.0.lock();
        let (threads, waiting) = (queue.threads, queue.jobs.len());
        f.debug_struct("Pool").field("threads", &threads).field("waiting", &waiting).finish()
    }
}

/// What the threads share with those who have calls for them.
struct Shared {
    queue: Mutex<Queue>,
    /// There is a job, or the end.
    work: Condvar,
    max: usize,
    /// So many threads stay when there is nothing to do.
    kept: usize,
    /// Whether a call for which there is no thread is made by the one who asks.
    may_run_inline: bool,
    prepare: fn() -> io::Result<()>,
}

#[derive(Default)]
struct Queue {
    /// In the order of their numbers.
    jobs: VecDeque<(u64, Arc<dyn Job>)>,
    next_number: u64,
    threads: usize,
    /// Threads that wait for a job, also those that were woken for one and have not taken it yet.
    idle: usize,
    is_closed: bool,
    /// Whether somebody was told that there is no thread.
    is_told: bool,
}

/// When a job is not taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unless {
    NoThread,
    Never,
}

impl Shared {
    fn new(max: usize, prepare: fn() -> io::Result<()>) -> Self {
        let (queue, work) = (Mutex::default(), Condvar::new());
        Self { queue, work, max, kept: 0, may_run_inline: false, prepare }
    }

    fn inline(max: usize) -> Self {
        Self { may_run_inline: true, ..Self::new(max, || Ok(())) }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Queues `job`, and sees to it that there is a thread for it. Returns its number.
    fn hand_over(self: &Arc<Self>, job: Arc<dyn Job>, unless: Unless) -> Option<u64> {
        let mut queue = self.lock();
        if queue.idle <= queue.jobs.len() && queue.threads < self.max {
            // Whoever holds the lock for so long delays others who would have to start a thread too.
            match self.start_thread(&mut queue) {
                Ok(()) => queue.is_told = false,
                Err(error) if queue.threads == 0 => {
                    if !mem::replace(&mut queue.is_told, true) {
                        tracing::warn!("there is no thread for file operations: {error}");
                    }
                    if unless == Unless::NoThread {
                        return None;
                    }
                }
                // The others will come to it.
                Err(_) => {}
            }
        }
        let number = queue.next_number;
        queue.next_number += 1;
        queue.jobs.push_back((number, job));
        drop(queue);
        self.work.notify_one();
        Some(number)
    }

    fn later(self: &Arc<Self>, call: impl FnOnce() + Send + 'static) {
        let task = Arc::new(Task::new(call));
        let unless = if self.may_run_inline { Unless::NoThread } else { Unless::Never };
        if self.hand_over(task.clone(), unless).is_none() {
            task.run();
        }
    }

    /// Takes a job out of the queue that nobody has begun.
    fn take_back(&self, number: u64) {
        let mut queue = self.lock();
        let place = queue.jobs.binary_search_by_key(&number, |(number, _)| *number);
        let job = place.ok().and_then(|place| queue.jobs.remove(place));
        drop(queue);
        drop(job);
    }

    fn start_thread(self: &Arc<Self>, queue: &mut Queue) -> io::Result<()> {
        let shared = self.clone();
        start_thread("fsrv-pool", move || shared.work())?;
        queue.threads += 1;
        Ok(())
    }

    /// What a thread does.
    fn work(&self) {
        settle_new_thread();
        let prepared = (self.prepare)();
        if let Err(error) = &prepared {
            tracing::error!("a thread for file operations cannot begin: {error}");
        }
        while let Some(job) = self.next_job() {
            // What a job drops may panic too.
            let _ = catch_unwind(AssertUnwindSafe(|| match prepared {
                Ok(()) => job.run(),
                Err(_) => job.refuse(),
            }));
        }
    }

    /// The next job; `None` when the thread is to end, which it is not counted for any more.
    fn next_job(&self) -> Option<Arc<dyn Job>> {
        let mut queue = self.lock();
        let mut waited_in_vain = false;
        loop {
            if let Some((_, job)) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.is_closed || (waited_in_vain && queue.threads > self.kept) {
                queue.threads -= 1;
                return None;
            }
            queue.idle += 1;
            if queue.threads > self.kept {
                let waited = self.work.wait_timeout(queue, IDLE);
                let (back, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                (queue, waited_in_vain) = (back, timeout.timed_out());
            } else {
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.idle -= 1;
        }
    }
}

/// What a thread gets.
trait Job: Send + Sync {
    fn run(&self);

    /// Does not run it: whoever waits gets EIO.
    fn refuse(&self);
}

/// A call, and then its result.
struct Task<C, T>(Mutex<Step<C, T>>);

enum Step<C, T> {
    Queued {
        call: C,
        waiter: Option<Waker>,
    },
    Running {
        waiter: Option<Waker>,
    },
    Done(io::Result<T>),
    /// Nobody waits for the result, or it was fetched.
    Over,
}

impl<T: Send, C: FnOnce() -> T + Send> Task<C, T> {
    fn new(call: C) -> Self {
        Self(Mutex::new(Step::Queued { call, waiter: None }))
    }

    /// Takes the call, unless nobody waits for it any more.
    fn begin(&self) -> Option<C> {
        let mut step = lock(&self.0);
        match mem::replace(&mut *step, Step::Over) {
            Step::Queued { call, waiter } => {
                *step = Step::Running { waiter };
                Some(call)
            }
            other => {
                *step = other;
                None
            }
        }
    }

    /// Gives the result to whoever waits for it, or drops it here.
    fn end(&self, result: io::Result<T>) {
        let mut step = lock(&self.0);
        let Step::Running { waiter } = &mut *step else { return };
        let waiter = waiter.take();
        *step = Step::Done(result);
        drop(step);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

impl<T: Send, C: FnOnce() -> T + Send> Job for Task<C, T> {
    fn run(&self) {
        if let Some(call) = self.begin() {
            self.end(catch_unwind(AssertUnwindSafe(call)).map_err(panicked));
        }
    }

    fn refuse(&self) {
        if let Some(call) = self.begin() {
            drop(call);
            self.end(Err(io::Error::from_raw_os_error(libc::EIO)));
        }
    }
}

/// The one who waits for a task.
struct Waiting<'p, T: Send + 'static, C: FnOnce() -> T + Send> {
    pool: &'p Arc<Shared>,
    task: Arc<Task<C, T>>,
    number: u64,
}

impl<T: Send, C: FnOnce() -> T + Send> Future for Waiting<'_, T, C> {
    type Output = io::Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut step = lock(&self.task.0);
        match &mut *step {
            Step::Queued { waiter, .. } | Step::Running { waiter } => {
                match waiter {
                    Some(waiter) => waiter.clone_from(cx.waker()),
                    None => *waiter = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            Step::Done(_) | Step::Over => match mem::replace(&mut *step, Step::Over) {
                Step::Done(result) => Poll::Ready(result),
                _ => panic!("polled after its end"),
            },
        }
    }
}

impl<T: Send + 'static, C: FnOnce() -> T + Send> Drop for Waiting<'_, T, C> {
    fn drop(&mut self) {
        let step = mem::replace(&mut *lock(&self.task.0), Step::Over);
        match step {
            Step::Queued { call, .. } => {
                self.pool.take_back(self.number);
                drop(call);
            }
            Step::Done(result) if mem::needs_drop::<T>() => self.pool.later(move || drop(result)),
            _ => {}
        }
    }
}

fn panicked(cause: Box<dyn std::any::Any + Send>) -> io::Error {
    let text = cause.downcast_ref::<&str>().copied();
    let text = text.or_else(|| cause.downcast_ref::<String>().map(String::as_str));
    io::Error::other(format!("a call panicked: {}", text.unwrap_or("without a message")))
}

/// What the mutexes guard is whole after each statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
