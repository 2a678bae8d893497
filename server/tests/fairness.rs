//! One slow request beside a hot loop: neither waits for the other.

use std::{
    collections::VecDeque,
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fsrv::{
    Context, Errno, FileSystem, Limits, NodeId, Result, Session, abi::*, op::*, serve, testing::*,
};
use fsrv_transport::{
    io::{Cost, Engine, File, preadv2, run},
    mem::Filled,
    testing::engines,
    worker::Worker,
};
use tokio::time::timeout;

/// How many requests of the hot loop are in flight.
const IN_FLIGHT: usize = 8;

/// How many of them a slow call lets be answered before it ends: a worker that is stopped by the call answers none.
const OTHERS: u64 = 1_000;

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the quickest of some slow requests may take in all.
const BOUND: Duration = Duration::from_millis(100);

/// How many are tried: others may use this machine.
const TRIES: usize = 10;

/// Answers STATFS at once; reads from the disk; FSYNC and UNLINK end when others were served meanwhile.
struct Slow {
    file: File,
    waits: Arc<Cost>,
    unlinks: Arc<Cost>,
    answered: Arc<AtomicU64>,
}

impl FileSystem for Slow {
    async fn statfs(&self, _: &Context, _: GetStatFs) -> Result<fsrv::types::StatFs> {
        self.answered.fetch_add(1, Ordering::Relaxed);
        Ok(fsrv::types::StatFs::default())
    }

    async fn read(&self, _: &Context, op: Read) -> Result<Filled> {
        Ok(preadv2(&self.file, op.out, op.offset).await?)
    }

    async fn fsync(&self, _: &Context, _: Fsync) -> Result<()> {
        let answered = self.answered.clone();
        run(&self.waits, move || others_are_served(&answered)).await?
    }

    async fn unlink(&self, _: &Context, _: Unlink<'_>) -> Result<()> {
        let answered = self.answered.clone();
        run(&self.unlinks, move || others_are_served(&answered)).await?
    }
}

/// Blocks its thread until the hot loop has got [`OTHERS`] answers.
fn others_are_served(answered: &AtomicU64) -> Result<()> {
    let enough = answered.load(Ordering::Relaxed) + OTHERS;
    let deadline = Instant::now() + PATIENCE;
    while answered.load(Ordering::Relaxed) < enough {
        if Instant::now() > deadline {
            return Err(Errno::EIO);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Serves `file` on a worker with `engine`, and runs `test` against it on this thread.
fn serve_slow(engine: Engine, file: &Path, test: impl AsyncFnOnce(&TestClient)) -> Served {
    let fd = OpenOptions::new().read(true).custom_flags(0o40000).open(file).unwrap();
    let unlinks = Arc::new(Cost::quick());
    unlinks.record(Duration::from_millis(50));
    let fs = Slow {
        file: File::new(fd.into(), Arc::new(Cost::quick())).unwrap(),
        waits: Arc::new(Cost::waits()),
        unlinks,
        answered: Arc::default(),
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

/// Keeps the worker busy until `done`. Returns how many requests that were.
async fn hot_loop(client: &TestClient, done: &AtomicBool) -> u64 {
    let mut in_flight = VecDeque::new();
    let mut sent = 0;
    while !done.load(Ordering::Relaxed) {
        if in_flight.len() == IN_FLIGHT {
            let asked: Asked = in_flight.pop_front().expect("some");
            asked.reply().await.unwrap();
        }
        in_flight.push_back(client.send(ask(17, NodeId(1))));
        sent += 1;
    }
    for asked in in_flight {
        asked.reply().await.unwrap();
    }
    sent
}

/// Sends `call` while the hot loop runs, which ends with it. Returns how long the call took, and the loop's requests.
async fn beside_the_loop(client: &TestClient, call: Call) -> (Duration, u64) {
    let done = Arc::new(AtomicBool::new(false));
    // From a thread of its own: the loop may never wait, and then nothing else here would run.
    let (slow_client, ended) = (client.clone(), done.clone());
    let slow = thread::spawn(move || {
        thread::sleep(Duration::from_millis(10));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let start = Instant::now();
        let reply = runtime.block_on(async { timeout(PATIENCE, slow_client.request(call)).await });
        ended.store(true, Ordering::Relaxed);
        reply.expect("no answer beside a hot loop").expect("a stopped worker");
        start.elapsed()
    });
    let sent = hot_loop(client, &done).await;
    (slow.join().unwrap(), sent)
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

/// Requests of `call` are answered while the loop beside them is.
fn assert_beside(engine: Engine, file: &Path, call: &Call) -> Served {
    serve_slow(engine, file, async |client| {
        let mut quickest = Duration::MAX;
        for _ in 0..TRIES {
            let (took, sent) = beside_the_loop(client, call.clone()).await;
            println!("{engine}: {took:?} beside {sent} requests");
            quickest = quickest.min(took);
        }
        assert!(quickest < BOUND, "{engine}: the slow request took {quickest:?}");
    })
}

#[test]
fn a_cold_read_completes_beside_a_hot_loop_and_off_its_thread() {
    with_file(|engine, file| {
        let arg = fuse_read_in { size: 4096, offset: 65_536, ..Default::default() };
        let stats = assert_beside(engine, file, &ask(15, NodeId(1)).arg(&arg).room(4096)).stats();
        let tries = TRIES as u64;
        assert_eq!(stats.requests_for("read"), tries);
        match engine {
            Engine::Uring => assert_eq!((stats.inline, stats.ring, stats.pool), (0, tries, 0)),
            Engine::Threads => assert_eq!((stats.inline, stats.ring, stats.pool), (0, 0, tries)),
        }
    });
}

#[test]
fn a_call_that_waits_completes_beside_a_hot_loop_and_does_not_stop_it() {
    with_file(|engine, file| {
        let call = ask(20, NodeId(1)).arg(&fuse_fsync_in::default());
        let stats = assert_beside(engine, file, &call).stats();
        assert_eq!((stats.inline, stats.ring, stats.pool), (0, 0, TRIES as u64));
    });
}

#[test]
fn an_unlink_known_to_be_slow_completes_beside_a_hot_loop_and_does_not_stop_it() {
    with_file(|engine, file| {
        let stats = assert_beside(engine, file, &ask(10, NodeId(1)).name("huge")).stats();
        assert_eq!((stats.inline, stats.ring, stats.pool), (0, 0, TRIES as u64));
    });
}
