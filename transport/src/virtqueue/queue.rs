//! Messages of one virtqueue.

use std::{
    cell::RefCell,
    io,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc::error::TryRecvError, oneshot},
};

use super::{
    Call, OnFault, QueueConfig, QueueFault, Setup,
    control::{Order, Orders, Stopped},
    ring::{Broken, DESCRIPTOR, Ring},
    walk::{Malformed, walk},
};
use crate::{
    mem::{Chain, Filled, GuestMap, InBuf, OutBuf, Pool},
    transport::{Completion, Config, Message, Transport},
};

/// Answers are published together, but the guest should learn of the first ones while the others are made:
/// a batch is this part of the messages that the guest has sent and not seen answered, within limits.
const BATCH_PART: usize = 4;

/// A smaller batch costs more in signals than it saves in waiting.
const BATCH_MIN: usize = 4;

/// Nobody waits for so many others.
const BATCH_MAX: usize = 16;

/// So many bad messages are refused at once, then others have their turn: a guest may send them without
/// end.
const REFUSED_MAX: u32 = 64;

/// So many ranges of memory the messages in flight may have before another one is taken: what is kept of
/// them is bounded, whatever their number and form.
const PIECES_MAX: usize = 64 << 10;

/// A chain with room for more ranges than this is not kept: few messages have as many.
const PIECES_KEPT: usize = 512;

/// At most so often a queue's log says what is wrong with its messages.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// One virtqueue as a [`Transport`].
pub struct Virtqueue {
    state: Rc<RefCell<State>>,
    kick: AsyncFd<OwnedFd>,
    orders: Orders,
    protocol: Config,
    polling: Polling,
    is_stopping: bool,
}

struct State {
    ring: Ring,
    /// Answered, and not in the used ring.
    answered: Vec<(u16, u32)>,
    /// The messages in flight, by the head of their chain.
    chains: Vec<Option<Arc<Chain>>>,
    in_flight: u32,
    /// The ranges of memory of these.
    pieces: usize,
    /// Chains to be used again.
    free: Vec<Arc<Chain>>,
    table: Vec<[u8; DESCRIPTOR]>,
    pool: Pool,
    call: Option<Call>,
    /// `None` also when it was told.
    on_fault: Option<OnFault>,
    departing: Vec<Departing>,
    is_broken: bool,
    complaints: Complaints,
}

/// Memory that the guest takes away when no message is in it any more.
struct Departing {
    ranges: Vec<(u64, u64)>,
    done: oneshot::Sender<()>,
}

impl Virtqueue {
    pub(super) fn new(ring: Ring, setup: Setup, orders: Orders) -> io::Result<Self> {
        let Setup { kick, call, on_fault, protocol, poll, .. } = setup;
        // SAFETY: an `OwnedFd` is open, and the same, until it is dropped.
        let kick = match unsafe { AsyncFd::register_with_interest(kick, Interest::READABLE) } {
            Ok(kick) => kick,
            Err(error) => {
                on_fault.iter().for_each(|on_fault| on_fault(QueueFault::Unserved));
                return Err(error.into());
            }
        };
        let size = usize::from(ring.size());
        let state = State {
            ring,
            answered: Vec::with_capacity(size.min(64)),
            chains: vec![None; size],
            in_flight: 0,
            pieces: 0,
            free: Vec::new(),
            table: Vec::new(),
            pool: Pool::new(),
            call,
            on_fault,
            departing: Vec::new(),
            is_broken: false,
            complaints: Complaints::default(),
        };
        Ok(Self {
            state: Rc::new(RefCell::new(state)),
            kick,
            orders,
            protocol,
            polling: Polling::new(poll),
            is_stopping: false,
        })
    }

    /// Takes a message if there is one.
    fn take(&self) -> Option<Message<QueueCompletion>> {
        let mut state = self.state.borrow_mut();
        let (head, chain) = state.take(&self.orders)?;
        let header = self.protocol.reply_header;
        Some(Message {
            input: InBuf::of_guest(chain.clone()),
            output: OutBuf::of_guest(chain, header, self.protocol.max_data),
            completion: QueueCompletion { state: self.state.clone(), head },
        })
    }

    /// Does what was ordered meanwhile.
    fn obey_all(&mut self) {
        loop {
            match self.orders.orders.try_recv() {
                Ok(order) => self.obey(order),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => return self.is_stopping = true,
            }
        }
    }

    fn obey(&mut self, order: Order) {
        let state = &mut *self.state.borrow_mut();
        match order {
            Order::Stop => self.is_stopping = true,
            Order::Wishes => {
                let wishes = self.orders.wishes.take();
                if let Some(used_log) = wishes.used_log {
                    state.ring.set_used_log(used_log);
                }
                if let Some(call) = wishes.call {
                    state.call = call;
                    state.signal();
                }
            }
            Order::Memory { config, map, departing, done } => {
                state.set_memory(&config, map);
                state.departing.push(Departing { ranges: departing, done });
                state.let_depart();
            }
        }
    }

    /// Sleeps until the guest kicks, or something is ordered.
    async fn sleep(&mut self) -> io::Result<()> {
        self.polling.sleep();
        tokio::select! {
            biased;
            order = self.orders.orders.recv() => match order {
                Some(order) => self.obey(order),
                None => self.is_stopping = true,
            },
            ready = self.kick.readable() => {
                ready?.clear_ready();
                self.polling.woken();
            }
        }
        Ok(())
    }
}

impl Transport for Virtqueue {
    type Completion = QueueCompletion;

    fn depth(&self) -> usize {
        self.state.borrow().chains.len()
    }

    fn waiters(&self) -> usize {
        self.depth() / 4
    }

    async fn recv(&mut self) -> io::Result<Option<Message<QueueCompletion>>> {
        loop {
            self.obey_all();
            if self.is_stopping {
                return Ok(None);
            }
            let refused = self.orders.counts.malformed.load(Ordering::Relaxed);
            if let Some(message) = self.take() {
                self.polling.found();
                return Ok(Some(message));
            }
            let refused = self.orders.counts.malformed.load(Ordering::Relaxed) - refused;
            let is_quiet = {
                let state = &mut *self.state.borrow_mut();
                state.publish();
                state.in_flight == 0 && !state.is_held()
            };
            if is_quiet && self.polling.goes_on() {
                tokio::task::yield_now().await;
                continue;
            }
            let has_more = {
                let state = &mut *self.state.borrow_mut();
                !state.is_held() && state.ring.listen()
            };
            if !has_more {
                self.sleep().await?;
            } else if refused > 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn flush(&mut self) {
        let state = &mut *self.state.borrow_mut();
        let may_wait = !self.is_stopping && !state.ring.guest_sleeps() && !state.batch_is_full();
        if !(may_wait && state.ring.has_more()) {
            state.publish();
        }
    }

    fn trim(&mut self) -> bool {
        let state = &mut *self.state.borrow_mut();
        let keep = state.in_flight as usize;
        state.free.truncate(keep);
        state.pool.trim() || !state.free.is_empty()
    }
}

impl Drop for Virtqueue {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        state.publish();
        if !self.is_stopping && self.orders.are_awaited() {
            state.fail(QueueFault::Unserved, "whoever served it has ended");
        }
        if let Some(stopped) = self.orders.stopped.take() {
            // Whoever stopped it may be gone.
            let _ = stopped.send(Stopped { next: state.ring.next_avail() });
        }
    }
}

impl State {
    fn take(&mut self, orders: &Orders) -> Option<(u16, Arc<Chain>)> {
        for _ in 0..REFUSED_MAX {
            if self.is_held() {
                break;
            }
            let head = match self.ring.take() {
                Ok(head) => head?,
                Err(Broken(why)) => {
                    self.break_down(why);
                    return None;
                }
            };
            if self.chains[usize::from(head)].is_some() {
                self.break_down("a message was made available again before it was answered");
                return None;
            }
            self.ring.mute();
            let mut chain = self.unused_chain();
            let new = Arc::get_mut(&mut chain).expect("nobody else has an unused chain");
            match walk(&self.ring, head, new, &mut self.table) {
                Ok(()) => {
                    self.chains[usize::from(head)] = Some(chain.clone());
                    self.in_flight += 1;
                    self.pieces += chain.pieces();
                    return Some((head, chain));
                }
                Err(why) => {
                    orders.counts.malformed.fetch_add(1, Ordering::Relaxed);
                    self.complaints.complain(why);
                    self.free.push(chain);
                    self.answered.push((head, 0));
                }
            }
        }
        None
    }

    fn batch_is_full(&self) -> bool {
        let sent = self.answered.len() + self.in_flight as usize + usize::from(self.ring.waiting());
        self.answered.len() >= (sent / BATCH_PART).clamp(BATCH_MIN, BATCH_MAX)
    }

    /// Whether no message is taken, although there may be some.
    fn is_held(&self) -> bool {
        self.is_broken || self.pieces >= PIECES_MAX
    }

    fn unused_chain(&mut self) -> Arc<Chain> {
        while let Some(mut chain) = self.free.pop() {
            if Arc::get_mut(&mut chain).is_some() {
                return chain;
            }
        }
        Arc::new(Chain::new(self.ring.map().clone(), self.pool.clone()))
    }

    /// The message of `head` is answered with `len` bytes.
    fn finish(&mut self, head: u16, len: usize) {
        let Some(chain) = self.chains[usize::from(head)].take() else { return };
        // After the last write to it, and before the guest can see the answer.
        chain.mark_dirty();
        self.in_flight -= 1;
        let pieces = chain.pieces();
        self.pieces -= pieces;
        self.answered.push((head, u32::try_from(len).unwrap_or(u32::MAX)));
        if pieces <= PIECES_KEPT && Arc::ptr_eq(chain.map(), self.ring.map()) {
            self.free.push(chain);
        }
        self.let_depart();
    }

    /// Shows the guest what was answered, before it is waited for.
    fn publish(&mut self) {
        if self.answered.is_empty() {
            return;
        }
        for (head, len) in self.answered.drain(..) {
            self.ring.answer(head, len);
        }
        if self.ring.publish() {
            self.signal();
        }
        if self.ring.map().is_lost() && !self.is_broken {
            self.break_down("the guest's memory was truncated");
        }
    }

    fn signal(&self) {
        if let Some(call) = &self.call {
            call.signal();
        }
    }

    fn set_memory(&mut self, config: &QueueConfig, map: GuestMap) {
        // What was answered belongs into the ring as it is.
        self.publish();
        self.free.clear();
        match self.ring.moved(config, Arc::new(map)) {
            Ok(moved) => self.ring = moved,
            Err(error) => self.break_down(&error.to_string()),
        }
    }

    /// Lets go of the memory in which no message is any more.
    fn let_depart(&mut self) {
        if self.departing.is_empty() {
            return;
        }
        let (chains, map) = (&self.chains, self.ring.map());
        let is_in_use = |departing: &Departing| {
            // A message that was taken since then has other memory, even at the same addresses.
            let older = chains.iter().flatten().filter(|chain| !Arc::ptr_eq(chain.map(), map));
            older
                .into_iter()
                .any(|chain| departing.ranges.iter().any(|&(start, len)| chain.meets(start, len)))
        };
        for gone in self.departing.extract_if(.., |departing| !is_in_use(departing)) {
            // Whoever asked may be gone.
            let _ = gone.done.send(());
        }
    }

    /// Takes no more messages: what the guest would get is not what it asked for.
    fn break_down(&mut self, why: &str) {
        self.fail(QueueFault::Broken, why);
    }

    fn fail(&mut self, fault: QueueFault, why: &str) {
        if !std::mem::replace(&mut self.is_broken, true) {
            tracing::warn!("a virtqueue stops, the guest has to reset the device: {why}");
        }
        if let Some(on_fault) = self.on_fault.take() {
            on_fault(fault);
        }
    }
}

/// Answers one message of a virtqueue.
pub struct QueueCompletion {
    state: Rc<RefCell<State>>,
    head: u16,
}

impl Completion for QueueCompletion {
    fn reply(self, header: &[u8], fixed: &[u8], data: Option<Filled>) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        let Some(chain) = &state.chains[usize::from(self.head)] else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let len = header.len() + fixed.len() + data.as_ref().map_or(0, Filled::len);
        if len > chain.writable().len() {
            state.complaints.complain("less room than its answer takes");
            state.finish(self.head, 0);
            return Err(io::ErrorKind::NotFound.into());
        }
        // The data is there already, unless something precedes it.
        let data = data.filter(|data| !fixed.is_empty() || !data.is_in(chain, header.len()));
        let data = data.map(|data| data.to_vec());
        chain.put(&[header, fixed, data.as_deref().unwrap_or_default()]);
        state.finish(self.head, len);
        Ok(())
    }

    fn discard(self) {
        self.state.borrow_mut().finish(self.head, 0);
    }
}

/// What is wrong with messages, said once in a while.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    fn complain(&mut self, why: Malformed) {
        if self.last.is_some_and(|last| last.elapsed() < COMPLAIN_EVERY) {
            self.unsaid += 1;
            return;
        }
        let more = std::mem::take(&mut self.unsaid);
        tracing::warn!(more, "a message is refused: {why}");
        self.last = Some(Instant::now());
    }
}

/// Looks for the next message before sleeping, as long as that finds one.
struct Polling {
    limit: Duration,
    /// Whether the last sleep was so short that looking on would have been better.
    pays: bool,
    since: Option<Instant>,
    slept_at: Option<Instant>,
}

impl Polling {
    fn new(limit: Duration) -> Self {
        Self { limit, pays: false, since: None, slept_at: None }
    }

    /// Whether to look once more.
    fn goes_on(&mut self) -> bool {
        if !self.pays {
            return false;
        }
        let goes_on = self.since.get_or_insert_with(Instant::now).elapsed() < self.limit;
        if !goes_on {
            self.pays = false;
        }
        goes_on
    }

    fn found(&mut self) {
        self.since = None;
    }

    fn sleep(&mut self) {
        self.since = None;
        if !self.limit.is_zero() {
            self.slept_at = Some(Instant::now());
        }
    }

    fn woken(&mut self) {
        self.pays = self.slept_at.is_some_and(|at| at.elapsed() < self.limit);
    }
}
