//! File I/O of a process that may have no more threads (`ulimit -u`, a pids cgroup).

use std::{
    fs::{self, OpenOptions},
    future::Future,
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::Path,
    pin::Pin,
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
};

use fsrv_transport::{
    io::{
        Closer, Cost, Engine, File, Pool, SyncKind, WriteAt, aside, fallocate, fsync, on_pool,
        preadv2, pwritev2,
    },
    mem::{self, InBuf, OutBuf},
    testing::engines,
    worker::Worker,
};
use rustix::{
    process::{Resource, Rlimit, Uid, getrlimit, setrlimit},
    thread::set_thread_res_uid,
};

const DIRECT: i32 = 0o40000;
const BLOCK: usize = 4096;
const AT_ONCE: usize = 64;

/// Makes this thread that of a user who has no other, and may have `threads` in all.
fn limit_threads(threads: u64) {
    static USERS: AtomicU32 = AtomicU32::new(0);
    let nth = USERS.fetch_add(1, Ordering::Relaxed);
    // The limit does not hold for root, nor for who may raise it.
    let uid = Uid::from_raw(1_000_000_000 + process::id() * 16 + nth);
    set_thread_res_uid(uid, uid, uid).unwrap();
    let limit = Rlimit { current: Some(threads), ..getrlimit(Resource::Nproc) };
    setrlimit(Resource::Nproc, limit).unwrap();
    if threads == 1 {
        thread::Builder::new().spawn(|| ()).expect_err("the limit holds");
    }
}

/// Runs `main` on a worker that has its own thread and one more.
fn on_worker<F>(
    engine: Engine,
    threads: u64,
    main: impl FnOnce() -> F + Send + 'static,
) -> io::Result<()>
where
    F: Future<Output = io::Result<()>>,
{
    let worker = Worker { name: "test".into(), cpu: None, engine };
    let prepare = move || {
        limit_threads(threads);
        Ok(())
    };
    let thread = worker.spawn(prepare, main).unwrap();
    thread.join().unwrap_or_else(|_| panic!("with {engine}"))
}

fn open(path: &Path, flags: i32) -> File {
    let mut options = OpenOptions::new();
    let fd: OwnedFd =
        options.read(true).write(true).create(true).custom_flags(flags).open(path).unwrap().into();
    File::new(fd, Arc::new(Cost::waits())).unwrap()
}

async fn all_at_once(calls: impl Iterator<Item = Pin<Box<dyn Future<Output = ()>>>>) {
    let local = tokio::task::LocalSet::new();
    let calls: Vec<_> = calls.map(|call| local.spawn_local(call)).collect();
    local
        .run_until(async {
            for call in calls {
                call.await.unwrap();
            }
        })
        .await;
}

#[test]
fn file_operations_are_done_where_no_more_threads_can_be_had() {
    for engine in engines() {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let paths = [dir.path().join("cached"), dir.path().join("direct")];
        let files = [open(&paths[0], 0), open(&paths[1], DIRECT)];
        let main = move || async move {
            let buffers = mem::Pool::new();
            all_at_once((0..AT_ONCE).map(|block| {
                let (file, buffers) = (files[block % 2].clone(), buffers.clone());
                let at = (block / 2 * BLOCK) as u64;
                Box::pin(async move {
                    let data = [block as u8; BLOCK];
                    let write = InBuf::copied(&buffers, &data);
                    let written = pwritev2(&file, write, WriteAt::Offset(at)).await.unwrap();
                    assert_eq!(written, BLOCK);
                    fsync(&file, SyncKind::Data).await.unwrap();
                    fallocate(&file, 0, at, BLOCK as u64).await.unwrap();
                    let read = preadv2(&file, OutBuf::new(&buffers, BLOCK), at).await.unwrap();
                    assert_eq!(read.as_host_bytes(), data);
                    fsync(&file, SyncKind::All).await.unwrap();
                    assert_eq!(on_pool(move || block).await.unwrap(), block);
                }) as Pin<Box<dyn Future<Output = ()>>>
            }))
            .await;
            Ok(())
        };
        on_worker(engine, 2, main).unwrap();
        for (first, path) in paths.iter().enumerate() {
            let mut data = [0; BLOCK];
            let file = fs::File::open(path).unwrap();
            for block in (first..AT_ONCE).step_by(2) {
                file.read_exact_at(&mut data, (block / 2 * BLOCK) as u64).unwrap();
                assert_eq!(data, [block as u8; BLOCK], "{engine}: {path:?} block {block}");
            }
        }
    }
}

#[test]
fn what_takes_long_to_free_is_not_freed_on_the_workers_thread() {
    /// Tells where it is dropped.
    struct Tells(mpsc::Sender<Option<String>>);
    impl Drop for Tells {
        fn drop(&mut self) {
            self.0.send(thread::current().name().map(str::to_owned)).unwrap();
        }
    }
    for engine in engines() {
        let main = move || async move {
            let closer = Closer::new();
            let before = closer.now();
            let (told, tell) = mpsc::channel();
            closer.close(Tells(told));
            assert!(closer.has_freed_since(before).await);
            assert_eq!(tell.recv().unwrap().as_deref(), Some("fsrv-pool"));
            let name = || thread::current().name().map(str::to_owned);
            assert_eq!(aside(name).await.unwrap().as_deref(), Some("fsrv-pool"));
            Ok(())
        };
        on_worker(engine, 2, main).unwrap();
    }
}

#[test]
fn a_worker_that_can_have_no_other_thread_says_so_and_how_to_get_one() {
    for engine in engines() {
        let main = || async { panic!("it begins") };
        let error = on_worker(engine, 1, main).unwrap_err().to_string();
        for word in ["thread", "temporarily unavailable", "ulimit -u", "TasksMax="] {
            assert!(error.contains(word), "{engine}: {error}");
        }
    }
}

#[test]
fn who_is_no_worker_makes_its_calls_itself() {
    let thread = thread::spawn(|| {
        limit_threads(1);
        let here = thread::current().id();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(on_pool(|| thread::current().id())).unwrap(), here);
        runtime.block_on(on_pool(|| panic!("on purpose"))).unwrap_err();
    });
    thread.join().unwrap();
}

#[test]
fn a_remote_file_without_a_thread_is_an_error_and_never_touched_here() {
    for engine in engines() {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let fd = fs::File::create(dir.path().join("f")).unwrap();
        let main = move || async move {
            let file = File::remote(fd.into(), Arc::new(Cost::quick()), Pool::new(4)).unwrap();
            let buffers = mem::Pool::new();
            let data = InBuf::copied(&buffers, b"data");
            let errors = [
                pwritev2(&file, data, WriteAt::Offset(0)).await.unwrap_err(),
                preadv2(&file, OutBuf::new(&buffers, 1), 0).await.err().unwrap(),
                fsync(&file, SyncKind::All).await.unwrap_err(),
                fallocate(&file, 0, 0, 1).await.unwrap_err(),
            ];
            assert!(errors.iter().all(|error| error.raw_os_error() == Some(5)), "{errors:?}");
            Ok(())
        };
        on_worker(engine, 2, main).unwrap();
        assert_eq!(fs::metadata(dir.path().join("f")).unwrap().len(), 0);
    }
}
