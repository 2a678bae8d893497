//! The same client from several threads, against real workers and a real file.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fsrv::{
    Limits, NodeId, Session,
    abi::*,
    serve,
    testing::{Call, ask},
};
use fsrv_transport::{
    io::{Cost, Engine, File},
    testing::{MemClient, Outcome, with_uring},
    worker::Worker,
};

use crate::{
    known::{Kind, Known, Sent},
    requests,
    scripted::{Behaviour, Scripted},
    seed::Seed,
};

const ROUNDS: u64 = 20;
const CLIENTS: u64 = 3;
const WORKERS: usize = 2;
const REQUESTS: usize = 300;
const PATIENCE: Duration = Duration::from_secs(20);

/// One thread of the client.
struct Caller {
    seed: Seed,
    client: MemClient,
    fs: Scripted,
    uniques: Arc<AtomicU64>,
    sent: Vec<Sent>,
    known: Known,
}

impl Caller {
    fn send(&mut self, call: &Call, kind: Kind, behaviour: Behaviour) -> u64 {
        let unique = self.uniques.fetch_add(2, Ordering::Relaxed);
        self.fs.plan(unique, behaviour);
        let exchange = self.client.send(&call.bytes(unique), call.reply_room());
        self.known.sent(&kind);
        self.sent.push(Sent { unique, on_wire: unique, queue: 0, kind, exchange });
        unique
    }

    fn run(mut self) {
        for _ in 0..REQUESTS {
            let (call, kind) = self.any();
            let behaviour = match self.seed.below(12) {
                0 => Behaviour::Pending,
                1 => Behaviour::Stubborn,
                2 => Behaviour::Forever,
                3 if self.seed.once_in(8) => Behaviour::Blocking,
                _ => Behaviour::Instant,
            };
            let unique = self.send(&call, kind, behaviour);
            match self.seed.below(4) {
                0 => self.interrupt(unique),
                1 => self.sent.last().expect("just sent").exchange.abandon(),
                _ => {}
            }
            if self.sent.len() > 50 {
                self.end_all();
            }
        }
        self.end_all();
        self.give_all_back();
    }

    fn any(&mut self) -> (Call, Kind) {
        let offset = self.seed.below(1 << 20) as u64 & !4095;
        match self.seed.below(4) {
            0 => {
                let arg = fuse_read_in { offset, size: 4096, ..Default::default() };
                (ask(15, NodeId(1)).arg(&arg).room(4096), Kind::Other)
            }
            1 => {
                let arg = fuse_write_in { offset, size: 4096, ..Default::default() };
                (ask(16, NodeId(1)).arg(&arg).data(&[5; 4096]), Kind::Other)
            }
            _ => requests::any(&mut self.seed, &self.known),
        }
    }

    fn interrupt(&mut self, target: u64) {
        let call = ask(36, NodeId(0)).arg(&fuse_interrupt_in { unique: target });
        self.send(&call, Kind::Interrupt { target }, Behaviour::Instant);
    }

    /// Opens every gate and interrupts every request until all have an outcome.
    fn end_all(&mut self) {
        let start = Instant::now();
        loop {
            self.gather();
            if self.sent.is_empty() {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "requests that never end");
            let here: Vec<u64> = {
                let waiting = &self.fs.state().waiting;
                let waits = |sent: &&Sent| waiting.contains_key(&sent.unique);
                self.sent.iter().filter(waits).map(|sent| sent.unique).collect()
            };
            for unique in here {
                self.fs.open_gate(unique);
                self.interrupt(unique);
            }
            thread::sleep(Duration::from_micros(200));
        }
    }

    fn gather(&mut self) {
        let mut waiting = Vec::new();
        for sent in std::mem::take(&mut self.sent) {
            match sent.exchange.outcome() {
                Some(outcome) => self.known.learn(&sent, outcome),
                None => waiting.push(sent),
            }
        }
        self.sent = waiting;
    }

    fn give_all_back(&mut self) {
        for (node, count) in std::mem::take(&mut self.known.lookups) {
            let nodes = vec![(node, count)];
            self.send(&requests::forget(&nodes), Kind::Forget(nodes), Behaviour::Instant);
        }
        for (fh, node) in std::mem::take(&mut self.known.handles) {
            let call = requests::release(&mut self.seed, fh, node);
            self.send(&call, Kind::Release { fh, node }, Behaviour::Instant);
        }
        self.end_all();
    }
}

fn run_round(engine: Engine, seed: u64) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    if seed.is_multiple_of(2) {
        // O_DIRECT: always on the engine.
        options.custom_flags(0o40000);
    }
    let file = options.open(dir.path().join("data")).unwrap();
    file.set_len(1 << 20).unwrap();
    let fs = Scripted::on_file(File::new(file.into(), Arc::new(Cost::quick())).unwrap());
    let session = Arc::new(Session::new(fs.clone(), Limits::default()));
    let client = MemClient::new();
    let workers: Vec<_> = (0..WORKERS)
        .map(|index| {
            let (transport, session) = (client.transport(4), session.clone());
            let worker = Worker { name: format!("worker {index}"), cpu: None, engine };
            let main = move || async move { serve(transport, &session).await };
            worker.spawn(|| Ok(()), main).unwrap()
        })
        .collect();
    begin(&client);
    let uniques = Arc::new(AtomicU64::new(10));
    thread::scope(|scope| {
        for thread in 0..CLIENTS {
            let caller = Caller {
                seed: Seed::new(seed * CLIENTS + thread),
                client: client.clone(),
                fs: fs.clone(),
                uniques: uniques.clone(),
                sent: Vec::new(),
                known: Known::default(),
            };
            scope.spawn(|| caller.run());
        }
    });
    let held = session.stats().held;
    assert_eq!((held.lookups, held.handles), (0, 0));
    client.hang_up();
    for worker in workers {
        worker.join().unwrap().unwrap();
    }
    assert_eq!(client.violations(), [""; 0]);
    assert_eq!(session.stats().in_flight, 0);
    let state = fs.state();
    assert_eq!((state.running, state.clients, state.locks.len()), (0, 0, 0));
}

fn begin(client: &MemClient) {
    let init = fuse_init_in { major: 7, minor: 45, flags: u32::MAX, ..Default::default() };
    let begun = client.send(&ask(26, NodeId(0)).arg(&init).bytes(2), 0);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(matches!(runtime.block_on(begun), Outcome::Replied(_)));
}

fn run_rounds(engine: Engine) {
    for seed in 0..ROUNDS {
        println!("{engine}, seed {seed}");
        run_round(engine, seed);
    }
}

#[test]
fn nothing_is_left_when_threads_call_workers_with_the_pool() {
    run_rounds(Engine::Threads);
}

#[test]
fn nothing_is_left_when_threads_call_workers_with_rings() {
    with_uring(|| run_rounds(Engine::Uring));
}
