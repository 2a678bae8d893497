//! A guest's driver of one queue.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    time::Duration,
};

use fsrv::{
    Result,
    testing::{Call, Reply},
};
use fsrv_transport::{
    virtio_queue::{Queue, QueueT},
    virtqueue::Source,
    vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, bitmap::AtomicBitmap},
};
use rustix::event::{EventfdFlags, eventfd};
use tokio::{sync::Notify, time::timeout};

pub(crate) type Memory = GuestMemoryMmap<AtomicBitmap>;

/// Entries of a ring.
pub(crate) const SIZE: u16 = 16;

/// Bytes of the guest's memory.
pub(crate) const MEMORY: usize = 1 << 20;

/// What one queue takes of it, and one message of a queue: half for the request, half for its answer.
const QUEUE: u64 = 0x2_0000;
const MESSAGE: u64 = 0x2000;

/// What answers at all answers within this time.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What waits for something else is not answered within this time.
pub(crate) const A_WHILE: Duration = Duration::from_millis(100);

/// Flags of a descriptor.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// One queue.
pub(crate) struct Driver {
    memory: Arc<Memory>,
    base: u64,
    /// Where its messages lie.
    messages: u64,
    kick: OwnedFd,
    called: Arc<Notify>,
    offered: u16,
    seen: u16,
    /// The numbers of requests in flight, by their slot; 0 for what has no answer.
    sent: [Option<u64>; SIZE as usize / 2],
    /// Answers that nobody took yet, by number.
    answers: HashMap<u64, Vec<u8>>,
}

impl Driver {
    /// The driver of queue `index` in empty memory, and the queue as a monitor knows it.
    pub(crate) fn new(memory: &Arc<Memory>, index: usize) -> (Self, Source) {
        let base = index as u64 * QUEUE;
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let called = Arc::<Notify>::default();
        let call = called.clone();
        let source =
            Source::new(&queue(base, SIZE), kick.try_clone().unwrap(), move || call.notify_one());
        let driver = Self {
            memory: memory.clone(),
            base,
            messages: base + MESSAGES,
            kick,
            called,
            offered: 0,
            seen: 0,
            sent: [None; SIZE as usize / 2],
            answers: HashMap::new(),
        };
        (driver, source)
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn request(&mut self, call: &Call) -> Result<Reply> {
        let unique = self.send(call);
        self.reply(unique).await
    }

    /// Sends a request. Returns its number.
    pub(crate) fn send(&mut self, call: &Call) -> u64 {
        let unique = self.offer(call);
        self.kick();
        unique
    }

    /// Makes a request available and does not say so.
    pub(crate) fn offer(&mut self, call: &Call) -> u64 {
        let slot = self.free_slot();
        let (head, unique) = (slot * 2, 2 + 2 * u64::from(self.offered));
        let bytes = call.bytes(unique);
        let (at, len) = (self.message(slot), u32::try_from(bytes.len()).unwrap());
        assert!(u64::from(len) <= MESSAGE / 2, "a short message");
        self.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
        self.describe(head, at, len, NEXT);
        self.describe(head + 1, at + MESSAGE / 2, (MESSAGE / 2) as u32, WRITE);
        self.sent[usize::from(slot)] = Some(unique);
        self.publish(head);
        unique
    }

    /// Sends a request that has no answer.
    pub(crate) fn tell(&mut self, call: &Call) {
        let slot = self.free_slot();
        let bytes = call.bytes(0);
        self.sent[usize::from(slot)] = Some(0);
        self.memory.write_slice(&bytes, GuestAddress(self.message(slot))).unwrap();
        self.describe(slot * 2, self.message(slot), u32::try_from(bytes.len()).unwrap(), 0);
        self.publish(slot * 2);
        self.kick();
    }

    pub(crate) fn kick(&self) {
        rustix::io::write(&self.kick, &1u64.to_ne_bytes()).unwrap();
    }

    /// Waits for the answer to a request.
    pub(crate) async fn reply(&mut self, unique: u64) -> Result<Reply> {
        let answer = timeout(SOON, async {
            loop {
                self.collect();
                if let Some(answer) = self.answers.remove(&unique) {
                    return answer;
                }
                self.called.notified().await;
            }
        });
        Reply::parse(unique, answer.await.expect("an answer"))
    }

    /// Whether a request is not answered for a while.
    pub(crate) async fn waits(&mut self, unique: u64) -> bool {
        tokio::time::sleep(A_WHILE).await;
        self.collect();
        !self.answers.contains_key(&unique)
    }

    /// The index of the used ring.
    pub(crate) fn used(&self) -> u16 {
        self.load(self.base + USED + 2)
    }

    /// The page of the used ring, and the page of the answer to the message that is sent next.
    pub(crate) fn pages(&self) -> (u64, u64) {
        let slot = self.free_slot();
        ((self.base + USED) / 4096, (self.message(slot) + MESSAGE / 2) / 4096)
    }

    /// Takes what was answered.
    fn collect(&mut self) {
        while self.seen != self.used() {
            let at = self.base + USED + 4 + u64::from(self.seen % SIZE) * 8;
            let mut raw = [0; 8];
            self.memory.read_slice(&mut raw, GuestAddress(at)).unwrap();
            let [head, len] =
                [0, 4].map(|at| u32::from_le_bytes(raw[at..][..4].try_into().unwrap()));
            let slot = u16::try_from(head / 2).unwrap();
            if let Some(unique) = self.sent[usize::from(slot)].take().filter(|&unique| unique != 0)
            {
                let mut answer = vec![0; len as usize];
                let room = GuestAddress(self.message(slot) + MESSAGE / 2);
                self.memory.read_slice(&mut answer, room).unwrap();
                self.answers.insert(unique, answer);
            }
            self.seen = self.seen.wrapping_add(1);
            // An interrupt for the next one, if that is not there already.
            self.store(self.base + AVAIL + 4 + u64::from(SIZE) * 2, self.seen);
            fence(Ordering::SeqCst);
        }
    }

    /// Puts its messages to `at` from now on.
    pub(crate) fn lie_at(&mut self, at: u64) {
        self.messages = at;
    }

    pub(crate) fn lie_at_home(&mut self) {
        self.lie_at(self.base + MESSAGES);
    }

    /// The guest has other memory, with the same rings.
    pub(crate) fn use_memory(&mut self, memory: &Arc<Memory>) {
        self.memory = memory.clone();
    }

    /// Says that so many more messages are available, whatever there is.
    pub(crate) fn claim(&self, count: u16) {
        self.store(self.base + AVAIL + 2, self.offered.wrapping_add(count));
        fence(Ordering::SeqCst);
    }

    fn free_slot(&self) -> u16 {
        let free = self.sent.iter().position(Option::is_none);
        free.expect("no more in flight than fit").try_into().unwrap()
    }

    fn message(&self, slot: u16) -> u64 {
        self.messages + u64::from(slot) * MESSAGE
    }

    fn describe(&self, index: u16, addr: u64, len: u32, flags: u16) {
        let raw = u128::from(addr)
            | u128::from(len) << 64
            | u128::from(flags) << 96
            | u128::from(index + 1) << 112;
        let at = self.base + u64::from(index) * 16;
        self.memory.write_slice(&raw.to_le_bytes(), GuestAddress(at)).unwrap();
    }

    fn publish(&mut self, head: u16) {
        self.store(self.base + AVAIL + 4 + u64::from(self.offered % SIZE) * 2, head);
        self.offered = self.offered.wrapping_add(1);
        self.store(self.base + AVAIL + 2, self.offered);
        fence(Ordering::SeqCst);
    }

    fn store(&self, at: u64, value: u16) {
        self.memory.store(value, GuestAddress(at), Ordering::SeqCst).unwrap();
    }

    fn load(&self, at: u64) -> u16 {
        self.memory.load(GuestAddress(at), Ordering::SeqCst).unwrap()
    }
}

/// Where the parts of a queue are, from its first byte on; the descriptors come first.
const AVAIL: u64 = 0x800;
const USED: u64 = 0x1000;
const MESSAGES: u64 = 0x2000;

/// A queue at `base`, as a driver has configured it.
pub(crate) fn queue(base: u64, size: u16) -> Queue {
    let mut queue = Queue::new(size).unwrap();
    queue.set_size(size);
    queue.try_set_desc_table_address(GuestAddress(base)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(base + AVAIL)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(base + USED)).unwrap();
    queue.set_ready(true);
    queue
}
