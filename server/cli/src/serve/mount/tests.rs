//! Mounts whose filesystems and workers fail.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use fsrv::{Attr, Attributes, Context as Request, abi::fuse_out_header, op::GetAttr};
use fsrv_transport::{Transport, fuse_dev::FuseTransport, io::Engine, mem::Pool};
use rustix::process::{Signal, getpid, kill_process};
use tempfile::TempDir;
use tokio::task::spawn_blocking;
use zerocopy::IntoBytes;

use super::*;

/// A mount of `fs`, and what ends it.
struct Served {
    dir: TempDir,
    mount: Arc<Mount>,
    workers: Workers,
    threads: Arc<file_io::Pool>,
    signals: Signals,
}

impl Served {
    /// By one worker.
    fn start<F: FileSystem + 'static>(fs: F) -> Self {
        Self::start_with(fs, |_| {})
    }

    /// Shows the device first.
    fn start_with<F: FileSystem + 'static>(fs: F, see: impl FnOnce(&Device)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mount, device) = mount(dir.path(), &MountOptions::new("test")).expect("a mount");
        see(&device);
        let signals = Signals::catch().unwrap();
        let session = Session::new(fs, Limits::default());
        let workers =
            Workers::start(session, vec![(0, device)], Engine::Threads, prepare_worker).unwrap();
        workers.serve();
        let threads = file_io::Pool::ready(shutdown::THREADS).unwrap();
        Self { dir, mount: Arc::new(mount), workers, threads, signals }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    async fn stop(self) -> Result<()> {
        let Self { mount, workers, threads, mut signals, .. } = self;
        stop(workers, &mount, &threads, &mut signals).await
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}

/// Never answers.
struct Stuck;

impl FileSystem for Stuck {
    async fn getattr(&self, _: &Request, _: GetAttr) -> fsrv::Result<Attributes> {
        std::future::pending().await
    }
}

/// Answers only what it is asked again.
#[derive(Default)]
struct Deaf(AtomicBool);

impl FileSystem for Deaf {
    async fn getattr(&self, _: &Request, _: GetAttr) -> fsrv::Result<Attributes> {
        if !self.0.swap(true, Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let attr = Attr { ino: 1, mode: Attr::DIRECTORY | 0o755, nlink: 2, ..Attr::default() };
        Ok(Attributes { attr, ttl: Duration::ZERO })
    }
}

#[test]
fn the_kernel_takes_the_answer_to_a_request_that_it_sent_again() {
    /// `FUSE_NOTIFY_RESEND`: the kernel sends again what was not answered (6.9).
    const RESEND: i32 = 7;
    run(async {
        let mut other = None;
        let served = Served::start_with(Deaf::default(), |device| {
            other = Some(device.try_clone().unwrap());
        });
        let config = Session::new(Stuck, Limits::default()).transport_config();
        let other = FuseTransport::new(other.unwrap(), config, Pool::new()).unwrap();
        let path = served.path();
        let client = spawn_blocking(move || fs::metadata(path));
        let again = fuse_out_header { len: 16, error: RESEND, unique: 0 };
        let notifier = other.notifier().unwrap();
        let mut sent_again = tokio::time::interval(Duration::from_millis(200));
        let mut client = std::pin::pin!(client);
        let found = loop {
            tokio::select! {
                found = &mut client => break found.unwrap(),
                _ = sent_again.tick() => notifier.notify(&[again.as_bytes()]).unwrap(),
            }
        };
        assert!(found.unwrap().is_dir());
        // The one that is never answered keeps its worker.
        kill_process(getpid(), Signal::TERM).unwrap();
        served.stop().await.unwrap();
    });
}

/// Panics.
struct Panicking;

impl FileSystem for Panicking {
    async fn getattr(&self, _: &Request, _: GetAttr) -> fsrv::Result<Attributes> {
        panic!("in a method");
    }
}

#[test]
fn who_calls_a_filesystem_that_panics_gets_eio_from_the_kernel() {
    run(async {
        let served = Served::start(Panicking);
        for _ in 0..3 {
            let path = served.path();
            let error = spawn_blocking(move || fs::metadata(path)).await.unwrap().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(5));
        }
        served.stop().await.unwrap();
    });
}

#[test]
fn a_worker_that_dies_is_told_and_leaves_no_mount() {
    fn dies() -> io::Result<()> {
        panic!("before it serves");
    }
    let dir = tempfile::tempdir().unwrap();
    let (mount, device) = mount(dir.path(), &MountOptions::new("test")).expect("a mount");
    let session = Session::new(Stuck, Limits::default());
    let started = Workers::start(session, vec![(0, device)], Engine::Threads, dies);
    let error = started.err().expect("a worker is missing");
    assert_eq!(format!("{error:#}"), "a worker panicked");
    drop(mount);
    fs::metadata(dir.path()).expect("nothing is mounted there");
}

#[test]
fn a_request_that_never_ends_does_not_keep_the_server() {
    run(async {
        let served = Served::start(Stuck);
        let path = served.path();
        let client = thread::spawn(move || fs::metadata(path));
        let start = Instant::now();
        while served.workers.in_flight().is_empty() && start.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let named = served.workers.in_flight();
        assert!(named.len() == 1 && named[0].starts_with("getattr "), "{named:?}");
        // The second signal, so that the test need not wait for the first one's patience.
        kill_process(getpid(), Signal::TERM).unwrap();
        let start = Instant::now();
        served.stop().await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        client.join().unwrap().expect_err("the mount is gone");
    });
}
