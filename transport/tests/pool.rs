//! Threads for blocking calls, and files that only they touch.

use std::{
    fs::{self, OpenOptions},
    future::Future,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use fsrv_transport::{
    io::{Cost, File, Pool, SyncKind, WriteAt, counters, fallocate, fsync, preadv2, pwritev2},
    mem::{self, InBuf, OutBuf},
    testing::engines,
    worker::Worker,
};
use tokio::runtime::{Builder, Runtime};

/// Long enough on a machine that has other things to do.
const LONG: Duration = Duration::from_secs(20);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Starts a future, and leaves it where it waits.
fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) {
    assert!(future.poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

/// Waits until `what`.
fn until(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < LONG, "it does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Keeps the only thread of a pool from anything else until the sender goes.
fn block(pool: &Arc<Pool>) -> Sender<()> {
    let (hold, held): (_, Receiver<()>) = channel();
    let (begin, begun) = channel();
    let pool = pool.clone();
    thread::spawn(move || {
        let wait = move || {
            begin.send(()).unwrap();
            held.recv()
        };
        runtime().block_on(pool.run(wait)).unwrap().unwrap_err();
    });
    begun.recv_timeout(LONG).unwrap();
    hold
}

/// Tells where it is dropped.
struct Tells(Sender<String>);

impl Drop for Tells {
    fn drop(&mut self) {
        let _ = self.0.send(thread::current().name().unwrap_or_default().to_owned());
    }
}

#[test]
fn a_call_gives_its_result_or_its_panic() {
    runtime().block_on(async {
        let pool = Pool::new(1);
        let thread = || thread::current().id();
        let theirs = pool.run(thread).await.unwrap();
        assert_ne!(theirs, thread());
        let error = pool.run(|| -> u8 { panic!("on purpose") }).await.unwrap_err();
        assert!(error.to_string().contains("on purpose"), "{error}");
        assert_eq!(pool.run(thread).await.unwrap(), theirs, "the thread lives on");
    });
}

#[test]
fn many_calls_run_at_once_and_never_more_than_there_may_be_threads() {
    const THREADS: usize = 4;
    let pool = Pool::new(THREADS);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let calls = (0..40).map(|_| {
        let (pool, now, most) = (pool.clone(), now.clone(), most.clone());
        async move {
            let call = move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(5));
                now.fetch_sub(1, Ordering::SeqCst);
            };
            pool.run(call).await.unwrap();
        }
    });
    runtime().block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        calls.for_each(|call| drop(tasks.spawn(call)));
        tasks.join_all().await;
    });
    assert_eq!(most.load(Ordering::SeqCst), THREADS);
}

#[test]
fn a_call_that_is_given_up_before_it_began_is_never_made() {
    let pool = Pool::new(1);
    let hold = block(&pool);
    let (told, tell) = channel();
    let captured = Tells(told);
    let mut given_up = Box::pin(pool.run(move || {
        let _captured = captured;
        panic!("it is made");
    }));
    poll_once(given_up.as_mut());
    let mut wanted = pin!(pool.run(|| 7));
    poll_once(wanted.as_mut());
    drop(given_up);
    // What it held is free at once, also when the threads hang for ever.
    assert_ne!(tell.recv_timeout(LONG).unwrap(), "fsrv-pool");
    drop(hold);
    assert_eq!(runtime().block_on(wanted).unwrap(), 7);
}

#[test]
fn a_call_that_is_given_up_later_ends_and_its_result_is_dropped_there() {
    let pool = Pool::new(1);
    for waits_for_result in [false, true] {
        let (begin, begun) = channel();
        let (hold, held) = channel::<()>();
        let (told, tell) = channel();
        let mut call = Box::pin(pool.run(move || {
            begin.send(()).unwrap();
            let _ = held.recv();
            Tells(told)
        }));
        poll_once(call.as_mut());
        begun.recv_timeout(LONG).unwrap();
        if waits_for_result {
            drop(hold);
            // The thread has put the result down when it takes the next call.
            runtime().block_on(pool.run(|| ())).unwrap();
            drop(call);
        } else {
            drop(call);
            drop(hold);
        }
        assert_eq!(tell.recv_timeout(LONG).unwrap(), "fsrv-pool");
    }
}

#[test]
fn no_call_is_lost_among_others_that_are_given_up() {
    let pool = Pool::new(3);
    let made = Arc::new(AtomicUsize::new(0));
    let ask = |asker: usize| {
        let (pool, made) = (pool.clone(), made.clone());
        move || {
            let runtime = runtime();
            let mut kept = 0;
            for nth in 0..3000 {
                let made = made.clone();
                let mut call = Box::pin(pool.run(move || made.fetch_add(1, Ordering::SeqCst)));
                if (nth + asker).is_multiple_of(3) {
                    let _ = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    continue;
                }
                runtime.block_on(call).unwrap();
                kept += 1;
            }
            kept
        }
    };
    let askers: Vec<_> = (0..6).map(|asker| thread::spawn(ask(asker))).collect();
    let kept: usize = askers.into_iter().map(|asker| asker.join().unwrap()).sum();
    let made = made.load(Ordering::SeqCst);
    assert!((kept..=6 * 3000).contains(&made), "{made} calls made, {kept} waited for");
    assert!(format!("{pool:?}").contains("waiting: 0"), "{pool:?}");
}

#[test]
fn threads_end_when_they_have_nothing_to_do() {
    let pool = Pool::new(2);
    let id = runtime().block_on(pool.run(rustix::thread::gettid)).unwrap();
    let task = format!("/proc/self/task/{}", id.as_raw_nonzero());
    assert!(Path::new(&task).exists());
    until(|| !Path::new(&task).exists());
    // Another one is started.
    assert_eq!(runtime().block_on(pool.run(|| 7)).unwrap(), 7);
}

#[test]
fn each_thread_is_prepared_whoever_starts_it() {
    thread_local!(static PREPARED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    let pool = Pool::prepared(1, || {
        PREPARED.set(true);
        Ok(())
    });
    assert!(runtime().block_on(pool.run(|| PREPARED.get())).unwrap());
    let refused = Pool::prepared(1, || Err(std::io::Error::other("on purpose")));
    let error = runtime().block_on(refused.run(|| -> () { panic!("it is made") })).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
}

/// Runs `test` on a worker of each engine, with the path of a file.
fn on_both_engines(test: impl AsyncFn(&Path) + Copy + Send + 'static) {
    for engine in engines() {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let worker = Worker { name: "test".into(), cpu: None, engine };
        let main = move || async move {
            test(&dir.path().join("f")).await;
            Ok(())
        };
        let thread = worker.spawn(|| Ok(()), main).unwrap();
        thread.join().unwrap_or_else(|_| panic!("with {engine}")).unwrap();
    }
}

fn remote(path: &Path, flags: i32, pool: &Arc<Pool>) -> File {
    let mut options = OpenOptions::new();
    let fd = options.read(true).write(true).create(true).custom_flags(flags).open(path).unwrap();
    File::remote(fd.into(), Arc::new(Cost::quick()), pool.clone()).unwrap()
}

#[test]
fn all_that_is_done_to_a_remote_file_is_done_on_its_pool() {
    const DIRECT: i32 = 0o40000;
    on_both_engines(async |path| {
        let (pool, buffers) = (Pool::new(2), mem::Pool::new());
        for flags in [0, DIRECT] {
            fs::write(path, [7; 8192]).unwrap();
            let before = (counters().inline(), counters().ring());
            let file = remote(path, flags, &pool);
            let data = InBuf::copied(&buffers, &[8; 4096]);
            assert_eq!(pwritev2(&file, data, WriteAt::Offset(4096)).await.unwrap(), 4096);
            let read = preadv2(&file, OutBuf::new(&buffers, 16384), 0).await.unwrap();
            assert_eq!(read.as_host_bytes(), [[7; 4096], [8; 4096]].concat());
            fsync(&file, SyncKind::Data).await.unwrap();
            fallocate(&file, 0, 0, 16384).await.unwrap();
            assert_eq!((counters().inline(), counters().ring()), before);
        }
    });
}

#[test]
fn a_remote_file_waits_for_its_pool_and_closes_on_it() {
    on_both_engines(async |path| {
        let (pool, buffers) = (Pool::new(1), mem::Pool::new());
        fs::File::create(path).unwrap().write_all(&[7; 4096]).unwrap();
        let file = remote(path, 0, &pool);
        let hold = block(&pool);
        let mut read = Box::pin(preadv2(&file, OutBuf::new(&buffers, 4096), 0));
        poll_once(read.as_mut());
        let mut sync = Box::pin(fsync(&file, SyncKind::All));
        poll_once(sync.as_mut());
        tokio::time::sleep(Duration::from_millis(20)).await;
        poll_once(read.as_mut());
        // An ordinary file beside it waits for nobody.
        let fd = OpenOptions::new().write(true).open(path).unwrap();
        let local = File::new(fd.into(), Arc::new(Cost::quick())).unwrap();
        fsync(&local, SyncKind::All).await.unwrap();
        drop(local);
        drop((read, sync));
        drop(file);
        let is_open = || {
            let fds = fs::read_dir("/proc/self/fd").unwrap();
            fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).any(|file| file == path)
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(is_open());
        drop(hold);
        until(|| !is_open());
    });
}
