//! One OS thread with a current-thread Tokio runtime, pinned to a CPU.

use std::{future::Future, io, pin::Pin, thread};

use rustix::{
    io::Errno,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use tokio::{
    sync::mpsc,
    task::{LocalSet, spawn_local},
};

use crate::io::{self as file_io, Engine, size_limit};

/// What a worker is.
pub struct Worker {
    /// The name of its thread, at most 15 bytes.
    pub name: String,
    /// The CPU that it is pinned to.
    pub cpu: Option<usize>,
    /// How it does file I/O.
    pub engine: Engine,
}

impl Worker {
    /// Starts the thread. `prepare` runs on it first, before the runtime and its ring exist: what a
    /// thread inherits, such as capabilities, is settled there for the threads it starts too.
    ///
    /// The thread has its own umask of 0, which is not that of the process unless the kernel refuses that, and does not take SIGXFSZ: a write past
    /// RLIMIT_FSIZE is EFBIG.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made. An error of `prepare` or `main` is the result
    /// of the thread.
    pub fn spawn<P, M, F>(
        self,
        prepare: P,
        main: M,
    ) -> io::Result<thread::JoinHandle<io::Result<()>>>
    where
        P: FnOnce() -> io::Result<()> + Send + 'static,
        M: FnOnce() -> F + Send + 'static,
        F: Future<Output = io::Result<()>>,
    {
        file_io::start_thread(self.name.clone(), move || self.run(prepare, main))
    }

    fn run<F>(
        self,
        prepare: impl FnOnce() -> io::Result<()>,
        main: impl FnOnce() -> F,
    ) -> io::Result<()>
    where
        F: Future<Output = io::Result<()>>,
    {
        if let Some(cpu) = self.cpu {
            let mut only = CpuSet::new();
            only.set(cpu);
            sched_setaffinity(None, &only)?;
        }
        match file_io::own_umask() {
            // The rules of many containers let nobody unshare anything. The process's umask is applied, then.
            Err(error) if is_refusal(&error) => {}
            other => other?,
        }
        size_limit::block();
        prepare()?;
        file_io::enter(self.engine)?;
        match self.engine {
            Engine::Uring => ring_runtime()?.block_on(async {
                tokio_uring::spawn(file_io::offer_again());
                main().await
            }),
            Engine::Threads => {
                tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(main())
            }
        }
    }
}

/// Whether a container's rules for system calls, or an older kernel, refused a call.
fn is_refusal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::PERM | Errno::NOSYS))
}

/// A worker that runs what it is given. Dropped, it ends when all of that has ended.
pub struct Host {
    jobs: mpsc::UnboundedSender<Job>,
}

type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

impl Host {
    /// Starts a worker; see [`Worker::spawn`].
    ///
    /// # Errors
    /// When the thread cannot be made, or cannot begin: `prepare` failed, or its runtime.
    pub async fn start<P>(worker: Worker, prepare: P) -> io::Result<Self>
    where
        P: FnOnce() -> io::Result<()> + Send + 'static,
    {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let (began, mut begun) = mpsc::channel::<()>(1);
        let main = move || async move {
            // Nobody waits for a second beginning.
            let _ = began.send(()).await;
            let local = LocalSet::new();
            let take_jobs = async {
                while let Some(job) = queue.recv().await {
                    spawn_local(job());
                }
            };
            local.run_until(take_jobs).await;
            local.await;
            Ok(())
        };
        let thread = worker.spawn(prepare, main)?;
        if begun.recv().await.is_none() {
            let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
            return Err(ended.err().unwrap_or_else(|| io::Error::other("it ended at once")));
        }
        Ok(Self { jobs })
    }

    /// Runs the future that `job` makes, on the worker.
    pub fn run<F>(&self, job: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        // A worker whose thread died has nobody to tell.
        let _ = self.jobs.send(Box::new(|| Box::pin(job())));
    }
}

/// Tries whether this process may use io_uring as a worker does.
///
/// # Errors
/// As [`probe_rings`].
pub fn probe_ring() -> io::Result<()> {
    probe_rings(1, || Ok(()))
}

/// Tries whether `count` workers may use io_uring at a time: their memory may count against RLIMIT_MEMLOCK of the user.
/// `prepare` runs first, on the thread that tries it, and takes from it what the workers will not have.
///
/// # Errors
/// Those of `prepare`, and why not, as the kernel says it: `PermissionDenied` under many container runtimes,
/// `OutOfMemory` when the memory may not be locked.
pub fn probe_rings(
    count: usize,
    prepare: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    // On a thread of its own: a runtime must not be made inside another one.
    let probe = move || {
        prepare()?;
        let rings: io::Result<Vec<_>> = (0..count).map(|_| ring_runtime()).collect();
        rings?.iter().for_each(|ring| ring.block_on(async {}));
        Ok(())
    };
    let probe = file_io::start_thread("fsrv-probe", probe)?;
    probe.join().unwrap_or_else(|_| Err(io::Error::other("the io_uring runtime panicked")))
}

/// The CPUs that this process may run on.
///
/// # Errors
/// What the kernel answered.
pub fn cpus() -> io::Result<Vec<usize>> {
    let allowed = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect())
}

fn ring_runtime() -> io::Result<tokio_uring::Runtime> {
    let mut cooperative = tokio_uring::uring_builder();
    cooperative.setup_coop_taskrun().setup_single_issuer();
    let mut builder = tokio_uring::builder();
    builder.entries(file_io::RING_ENTRIES).uring_builder(&cooperative);
    tokio_uring::Runtime::new(&builder).or_else(|error| match error.kind() {
        // Kernels before 6.0 do not know these flags.
        io::ErrorKind::InvalidInput => {
            tokio_uring::Runtime::new(tokio_uring::builder().entries(file_io::RING_ENTRIES))
        }
        _ => Err(error),
    })
}
