//! One seed: a client that does as it likes, and the rules that must hold all the same.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    sync::Arc,
};

use fsrv::{
    Errno, Limits, NodeId, Session,
    abi::*,
    testing::{Call, ask},
};
use fsrv_transport::testing::{MemClient, Outcome};

use crate::{
    known::{Kind, Known, Sent},
    requests,
    scripted::{Behaviour, Scripted, Wait},
    seed::Seed,
    turns::{Queue, Servers},
};

/// The most messages without an outcome.
const OUTSTANDING_MAX: usize = 40;

pub(crate) struct World {
    seed: Seed,
    fs: Scripted,
    session: Arc<Session<Scripted>>,
    queues: Vec<Queue>,
    servers: Servers,
    sent: Vec<Sent>,
    known: Known,
    interrupted: HashSet<u64>,
    unique: u64,
}

/// Runs one seed.
pub(crate) async fn run(seed: u64) {
    let fs = Scripted::default();
    let mut world = World {
        seed: Seed::new(seed),
        session: Arc::new(Session::new(fs.clone(), Limits::default())),
        fs,
        queues: Vec::new(),
        servers: Servers::default(),
        sent: Vec::new(),
        known: Known::default(),
        interrupted: HashSet::new(),
        unique: 0,
    };
    let lives = 1 + usize::from(world.seed.once_in(3));
    for _ in 0..lives {
        world.live().await;
    }
}

impl World {
    /// One life of the session, from its first transport to its last.
    async fn live(&mut self) {
        self.connect();
        if self.seed.once_in(8) {
            // A request before INIT.
            self.send_any();
            self.rest().await;
        }
        self.send_reset(Kind::Init);
        self.rest().await;
        for _ in 0..self.seed.within(5..50) {
            self.act().await;
        }
        match self.seed.below(4) {
            0 => self.die(),
            1 => self.fail(),
            _ => self.end_politely().await,
        }
        self.end().await;
    }

    fn connect(&mut self) {
        self.queues.clear();
        for _ in 0..self.seed.within(1..3) {
            let client = MemClient::new();
            let transports = self.seed.within(1..3);
            let depth = self.seed.within(1..5);
            for _ in 0..transports {
                self.servers.start(client.transport(depth), self.session.clone());
            }
            self.queues.push(Queue {
                client,
                depth: depth * transports,
                depth_of_one: depth,
                is_open: true,
            });
        }
    }

    async fn act(&mut self) {
        self.gather();
        match self.seed.below(20) {
            0..8 => self.send_any(),
            8 | 9 => self.open_a_gate(),
            10 => self.interrupt(),
            11 => self.abandon(),
            12 | 13 => self.give_back(),
            14 if self.seed.once_in(6) => self.reset(),
            15 if self.seed.once_in(12) => self.stop_a_queue(),
            16 => self.rest().await,
            _ => self.servers.turn(&mut self.seed),
        }
    }

    fn send_any(&mut self) {
        if self.sent.len() >= OUTSTANDING_MAX {
            return;
        }
        let (call, kind) = requests::any(&mut self.seed, &self.known);
        if self.seed.once_in(20) && !self.is_resetting() {
            // An interrupt that overtakes its request.
            let target = self.unique + 4;
            self.send_interrupt(target);
        }
        let behaviour = self.behaviour();
        self.fs.plan(self.unique + 2, behaviour);
        self.send(call, kind);
    }

    fn behaviour(&mut self) -> Behaviour {
        match self.seed.below(40) {
            0..22 => Behaviour::Instant,
            22 => Behaviour::Fails(Errno::EIO),
            23..31 => Behaviour::Pending,
            31..35 => Behaviour::Stubborn,
            35..39 => Behaviour::Forever,
            _ if self.seed.once_in(50) => Behaviour::Blocking,
            _ => Behaviour::Instant,
        }
    }

    fn send(&mut self, call: Call, kind: Kind) {
        self.unique += 2;
        // A client begins on one queue, and sends nothing on others before it may.
        let begins = kind.is_reset() || self.is_resetting();
        let queue = if begins { 0 } else { self.seed.below(self.queues.len()) };
        let on_wire = self.unique | self.resend_bit();
        let bytes = call.bytes(on_wire);
        let exchange = self.queues[queue].client.send(&bytes, call.reply_room());
        self.known.sent(&kind);
        self.sent.push(Sent { unique: self.unique, on_wire, queue, kind, exchange });
    }

    fn resend_bit(&mut self) -> u64 {
        if self.seed.once_in(10) { FUSE_UNIQUE_RESEND } else { 0 }
    }

    fn open_a_gate(&mut self) {
        let uniques: Vec<u64> = self.fs.state().waiting.keys().copied().collect();
        if let Some(&unique) = self.seed.pick(&uniques) {
            self.fs.open_gate(unique);
        }
    }

    fn interrupt(&mut self) {
        let target = match self.seed.pick(&self.sent) {
            Some(sent) if !matches!(sent.kind, Kind::Interrupt { .. }) => sent.unique,
            _ => 1,
        };
        self.send_interrupt(target);
    }

    fn send_interrupt(&mut self, target: u64) {
        let call =
            ask(36, NodeId(0)).arg(&fuse_interrupt_in { unique: target | self.resend_bit() });
        self.send(call, Kind::Interrupt { target });
    }

    fn abandon(&mut self) {
        if let Some(sent) = self.seed.pick(&self.sent)
            && !sent.kind.is_reset()
            && !matches!(sent.kind, Kind::Interrupt { .. })
        {
            sent.exchange.abandon();
        }
    }

    /// Gives back some of what the client holds.
    fn give_back(&mut self) {
        if self.is_resetting() {
            return;
        }
        match self.seed.below(3) {
            0 => self.forget_some(),
            1 => self.release_one(),
            _ => self.unlock_one(),
        }
    }

    fn forget_some(&mut self) {
        let mut nodes = Vec::new();
        while let Some((node, count)) = self.known.lookups.pop_first() {
            let forgotten = 1 + self.seed.below(count as usize) as u64;
            nodes.push((node, forgotten));
            if forgotten < count {
                self.known.lookups.insert(node, count - forgotten);
            }
            if nodes.len() == 3 || self.known.lookups.keys().all(|&next| next <= node) {
                break;
            }
        }
        if !nodes.is_empty() {
            self.send(requests::forget(&nodes), Kind::Forget(nodes));
        }
    }

    fn release_one(&mut self) {
        let handles: Vec<_> = self.known.handles.iter().map(|(&fh, &node)| (fh, node)).collect();
        if let Some(&(fh, node)) = self.seed.pick(&handles) {
            self.known.handles.remove(&fh);
            let call = requests::release(&mut self.seed, fh, node);
            let behaviour = self.behaviour();
            self.fs.plan(self.unique + 2, behaviour);
            self.send(call, Kind::Release { fh, node });
        }
    }

    fn unlock_one(&mut self) {
        let locks: Vec<_> = self.known.locks.iter().map(|(&node, &owner)| (node, owner)).collect();
        if let Some(&(node, owner)) = self.seed.pick(&locks)
            && !self.known.lock_in_doubt(node, owner)
        {
            let call = requests::unlock(&mut self.seed, node, owner);
            self.send(call, Kind::Unlock { node, owner });
        }
    }

    /// The client begins anew, or says that it ends and then begins.
    fn reset(&mut self) {
        if self.is_resetting() || self.queues.iter().any(|queue| queue.client.queued() > 0) {
            return;
        }
        if self.seed.once_in(2) {
            self.send_reset(Kind::Destroy);
        }
        self.send_reset(Kind::Init);
    }

    fn send_reset(&mut self, kind: Kind) {
        let flags = FUSE_POSIX_LOCKS | FUSE_SETXATTR_EXT | FUSE_DO_READDIRPLUS;
        let arg = fuse_init_in { major: 7, minor: 45, flags: flags as u32, ..Default::default() };
        let call =
            if kind == Kind::Init { ask(26, NodeId(0)).arg(&arg) } else { ask(38, NodeId(0)) };
        self.send(call, kind);
    }

    fn is_resetting(&self) -> bool {
        self.sent.iter().any(|sent| sent.kind.is_reset())
    }

    fn stop_a_queue(&mut self) {
        let index = self.queues.len() - 1;
        if index > 0 && !self.is_resetting() {
            self.queues[index].client.stop();
            self.queues[index].is_open = false;
        }
    }

    fn die(&mut self) {
        for queue in &mut self.queues {
            queue.client.hang_up();
            queue.is_open = false;
        }
    }

    fn fail(&mut self) {
        for queue in &mut self.queues {
            queue.client.fail(io::ErrorKind::ConnectionReset);
            queue.is_open = false;
        }
    }

    /// Learns what became of messages, in the order they were sent.
    fn gather(&mut self) {
        let mut waiting = Vec::new();
        for sent in std::mem::take(&mut self.sent) {
            let Some(outcome) = sent.exchange.outcome() else {
                waiting.push(sent);
                continue;
            };
            if let Kind::Interrupt { target } = sent.kind
                && outcome != Outcome::Lost
            {
                self.interrupted.insert(target);
            }
            self.known.learn(&sent, outcome);
        }
        self.sent = waiting;
    }

    /// Runs until nothing moves, and looks whether everything that waits has a reason.
    async fn rest(&mut self) {
        self.servers.run_to_rest(&mut self.seed, &self.fs).await;
        self.gather();
        let fs = self.fs.state();
        assert_eq!(fs.broken, [""; 0]);
        let reset_runs =
            self.sent.iter().any(|sent| sent.kind.is_reset() && sent.exchange.is_received());
        for sent in &self.sent {
            let queue = &self.queues[sent.queue];
            if !sent.exchange.is_received() {
                let held = self.held_slots(sent.queue, &fs.waiting);
                assert_eq!(held, queue.depth, "{} {:?} is not received", sent.unique, sent.kind);
                continue;
            }
            if sent.kind.is_reset() {
                assert!(!fs.waiting.is_empty(), "{:?} waits for nothing", sent.kind);
                continue;
            }
            // A transport whose places are all taken does not look for its end.
            let sees_end = self.held_slots(sent.queue, &fs.waiting) < queue.depth_of_one;
            let told_to_end =
                self.interrupted.contains(&sent.unique) || !queue.is_open && sees_end || reset_runs;
            let may_wait = match fs.waiting.get(&sent.unique) {
                Some(Wait::Gate { stubborn: true }) => true,
                Some(Wait::Gate { .. } | Wait::Forever) => !told_to_end,
                Some(Wait::Lock { node, owner }) => {
                    !told_to_end && fs.locks.get(node).is_some_and(|holder| holder != owner)
                }
                Some(Wait::Pool) | None => false,
            };
            let waits = fs.waiting.get(&sent.unique);
            let (unique, kind) = (sent.unique, &sent.kind);
            let interrupted = self.interrupted.contains(&unique);
            let why = format!(
                "interrupted {interrupted}, queue open {}, reset {reset_runs}",
                queue.is_open
            );
            assert!(may_wait, "{unique} {kind:?} waits: {waits:?}; {why}");
        }
        drop(fs);
        let running = self.session.stats().in_flight;
        let received = self.sent.iter().filter(|sent| sent.exchange.is_received());
        let resets = received.clone().filter(|sent| sent.kind.is_reset()).count();
        assert_eq!(running as usize + resets, received.count());
    }

    /// The places of a queue that requests hold which do not wait for a client.
    fn held_slots(&self, queue: usize, waiting: &BTreeMap<u64, Wait>) -> usize {
        let here =
            self.sent.iter().filter(|sent| sent.queue == queue && sent.exchange.is_received());
        here.filter(|sent| !waiting.get(&sent.unique).is_some_and(|wait| wait.is_parked())).count()
    }

    /// Lets everything finish, gives everything back, and finds nothing left.
    async fn end_politely(&mut self) {
        // As many rounds as could be needed to get at what is queued behind full slots.
        for _ in 0..OUTSTANDING_MAX * 4 {
            self.rest().await;
            if self.sent.is_empty() {
                break;
            }
            self.open_all_gates();
            self.interrupt_what_is_parked();
        }
        assert!(self.sent.is_empty(), "requests that never end");
        {
            let fs = self.fs.state();
            assert_eq!(fs.lookups, self.known.lookups);
            assert_eq!(
                fs.handles.keys().collect::<Vec<_>>(),
                Vec::from_iter(self.known.handles.keys())
            );
            assert_eq!(fs.locks, self.known.locks);
        }
        while !(self.known.lookups.is_empty() && self.known.handles.is_empty()) {
            self.forget_some();
            self.release_one();
            self.rest().await;
            self.open_all_gates();
            self.interrupt_what_is_parked();
        }
        while !self.known.locks.is_empty() {
            self.unlock_one();
            self.rest().await;
        }
        self.rest().await;
        let held = self.session.stats().held;
        assert_eq!((held.lookups, held.handles, held.locks), (0, 0, 0));
        for queue in &mut self.queues {
            queue.client.stop();
            queue.is_open = false;
        }
    }

    fn open_all_gates(&self) {
        let uniques: Vec<u64> = self.fs.state().waiting.keys().copied().collect();
        uniques.into_iter().for_each(|unique| self.fs.open_gate(unique));
    }

    fn interrupt_what_is_parked(&mut self) {
        let parked: Vec<u64> = {
            let fs = self.fs.state();
            fs.waiting
                .iter()
                .filter(|(_, wait)| wait.is_parked())
                .map(|(&unique, _)| unique)
                .collect()
        };
        let asked: HashSet<u64> = self
            .sent
            .iter()
            .filter_map(|sent| match sent.kind {
                Kind::Interrupt { target } => Some(target),
                _ => None,
            })
            .collect();
        for unique in parked {
            if !asked.contains(&unique) && !self.is_resetting() {
                self.send_interrupt(unique);
            }
        }
    }

    /// All queues have ended: so do the servers, and nothing is left.
    async fn end(&mut self) {
        for _ in 0..OUTSTANDING_MAX {
            self.rest().await;
            if self.servers.len() == 0 {
                break;
            }
            self.open_all_gates();
        }
        assert_eq!(self.servers.len(), 0, "servers that do not end");
        self.gather();
        assert!(self.sent.is_empty(), "requests without an outcome");
        assert!(self.queues.iter().all(|queue| queue.client.violations().is_empty()));
        self.known.clear();
        let fs = self.fs.state();
        assert_eq!((fs.running, fs.clients, fs.waiting.len()), (0, 0, 0));
        assert!(fs.lookups.is_empty() && fs.handles.is_empty() && fs.locks.is_empty());
        drop(fs);
        assert_eq!(self.session.stats().in_flight, 0);
    }
}
