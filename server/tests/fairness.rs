//! One slow request beside a hot loop: neither waits for the other.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use fsrv::{
    Context, FileSystem, Limits, NodeId, Result, Session, abi::*, op::*, serve, testing::*,
};
use fsrv_transport::{
    io::{Cost, Engine, File, preadv2, run},
    mem::Filled,
    worker::{Worker, probe_ring},
};

/// Requests of the hot loop.
const HOT: usize = 100_000;

/// How many of them are in flight.
const IN_FLIGHT: usize = 8;

/// What a slow call takes.
const SLOW: Duration = Duration::from_millis(50);

/// What the slow request may take in all.
const BOUND: Duration = Duration::from_millis(100);

/// Answers STATFS at once; reads from the disk; unlinks slowly, which shows with the first call.
struct Slow {
    file: File,
    waits: Arc<Cost>,
    unlinks: Arc<Cost>,
}

impl FileSystem for Slow {
    async fn statfs(&self, _: &Context, _: GetStatFs) -> Result<fsrv::types::StatFs> {
        Ok(fsrv::types::StatFs::default())
    }

    async fn read(&self, _: &Context, op: Read) -> Result<Filled> {
        Ok(preadv2(&self.file, op.out, op.offset).await?)
    }

    async fn fsync(&self, _: &Context, _: Fsync) -> Result<()> {
        Ok(run(&self.waits, || thread::sleep(SLOW)).await?)
    }

    async fn unlink(&self, _: &Context, _: Unlink<'_>) -> Result<()> {
        Ok(run(&self.unlinks, || thread::sleep(SLOW)).await?)
    }
}

/// Serves `file` on a worker with `engine`, and runs `test` against it on this thread.
fn serve_slow(engine: Engine, file: &Path, test: impl AsyncFnOnce(&TestClient)) -> Served {
    let fd = OpenOptions::new().read(true).custom_flags(0o40000).open(file).unwrap();
    let unlinks = Arc::new(Cost::quick());
    unlinks.record(SLOW);
    let fs = Slow {
        file: File::new(fd.into(), Arc::new(Cost::quick())).unwrap(),
        waits: Arc::new(Cost::waits()),
        unlinks,
    };
    let session = Arc::new(Session::new(fs, Limits::default()));
    let client = TestClient::new();
    let (transport, served) = (client.transport(64), session.clone());
    let worker = Worker { name: "hot".into(), cpu: None, engine };
    let main = move || async move { serve(transport, &served).await };
    let thread = worker.spawn(|| Ok(()), main).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        client.init().await.unwrap();
        test(&client).await;
    });
    client.hang_up();
    thread.join().unwrap().unwrap();
    session
}

type Served = Arc<Session<Slow>>;

/// Keeps the worker busy: returns how long the whole loop took.
async fn hot_loop(client: &TestClient) -> Duration {
    let start = Instant::now();
    let mut in_flight = std::collections::VecDeque::new();
    for _ in 0..HOT {
        if in_flight.len() == IN_FLIGHT {
            let asked: Asked = in_flight.pop_front().expect("some");
            asked.reply().await.unwrap();
        }
        in_flight.push_back(client.send(ask(17, NodeId(1))));
    }
    for asked in in_flight {
        asked.reply().await.unwrap();
    }
    start.elapsed()
}

/// Sends `call` when the hot loop is under way. Returns how long the loop took, and the call.
async fn beside_the_loop(client: &TestClient, call: Call) -> (Duration, Duration) {
    // From a thread of its own: the loop may never wait, and then nothing else here would run.
    let slow_client = client.clone();
    let slow = thread::spawn(move || {
        thread::sleep(Duration::from_millis(10));
        let start = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(slow_client.request(call)).unwrap();
        start.elapsed()
    });
    (hot_loop(client).await, slow.join().unwrap())
}

fn engines() -> Vec<Engine> {
    let ring = probe_ring().is_ok().then_some(Engine::Uring);
    [Engine::Threads].into_iter().chain(ring).collect()
}

/// One at a time: a hot loop takes two CPUs.
static ALONE: Mutex<()> = Mutex::new(());

fn with_file(test: impl Fn(Engine, &Path)) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("cold");
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    engines().into_iter().for_each(|engine| test(engine, &path));
}

/// A request of `call` is slow, and the loop beside it is not.
fn assert_beside(engine: Engine, file: &Path, call: &Call) -> Served {
    serve_slow(engine, file, async |client| {
        let alone = hot_loop(client).await;
        let (beside, took) = beside_the_loop(client, call.clone()).await;
        println!("{engine}: hot alone {alone:?}, beside {beside:?}; slow {took:?}");
        assert!(took < BOUND, "{engine}: the slow request took {took:?}");
        // Other tests may run at the same time.
        assert!(beside < alone * 3 + SLOW, "{engine}: the loop took {beside:?}, alone {alone:?}");
    })
}

#[test]
fn a_cold_read_completes_beside_a_hot_loop_and_does_not_slow_it() {
    with_file(|engine, file| {
        let arg = fuse_read_in { size: 4096, offset: 65_536, ..Default::default() };
        let session = assert_beside(engine, file, &ask(15, NodeId(1)).arg(&arg).room(4096));
        let stats = session.stats();
        assert_eq!(stats.requests_for("statfs") as usize, 2 * HOT);
        assert_eq!(stats.requests_for("read"), 1);
        match engine {
            Engine::Uring => assert_eq!((stats.inline, stats.ring, stats.pool), (0, 1, 0)),
            Engine::Threads => assert_eq!((stats.inline, stats.ring, stats.pool), (0, 0, 1)),
        }
    });
}

#[test]
fn a_call_that_waits_completes_beside_a_hot_loop_and_does_not_slow_it() {
    with_file(|engine, file| {
        let call = ask(20, NodeId(1)).arg(&fuse_fsync_in::default());
        let stats = assert_beside(engine, file, &call).stats();
        assert_eq!((stats.inline, stats.ring, stats.pool), (0, 0, 1));
    });
}

#[test]
fn an_unlink_known_to_be_slow_completes_beside_a_hot_loop_and_does_not_slow_it() {
    with_file(|engine, file| {
        let stats = assert_beside(engine, file, &ask(10, NodeId(1)).name("huge")).stats();
        assert_eq!((stats.inline, stats.ring, stats.pool), (0, 0, 1));
    });
}
