//! A driver that does what it is told, also what no driver should.

use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::event::{EventfdFlags, eventfd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, bitmap::AtomicBitmap};

use super::super::{Call, Prepared, QueueConfig, QueueControl, QueueFault, Setup, Virtqueue};
use crate::{mem::GuestMap, transport::Config};

pub(super) const SIZE: u16 = 8;
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;
pub(super) const REPLY_HEADER: usize = 16;

const DESC: u64 = 0;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;

/// Where messages may lie.
pub(super) const DATA: u64 = 0x10000;

/// The guest's memory is in two regions with a gap between them.
pub(super) const BORDER: u64 = 0x20000;
pub(super) const GAP: u64 = 0x40000;
pub(super) const END: u64 = 0x80000;

pub(super) type Memory = GuestMemoryMmap<AtomicBitmap>;

pub(super) struct Driver {
    pub(super) memory: Arc<Memory>,
    pub(super) calls: Arc<AtomicU32>,
    pub(super) faults: Arc<Mutex<Vec<QueueFault>>>,
    pub(super) control: QueueControl,
    kick: OwnedFd,
    event_idx: bool,
    next: u16,
    dirty: BTreeSet<u64>,
}

/// A descriptor: address, length, flags, next.
pub(super) type Desc = (u64, u32, u16, u16);

impl Driver {
    pub(super) fn new(event_idx: bool) -> (Self, Virtqueue) {
        Self::polled(event_idx, Duration::ZERO)
    }

    pub(super) fn polled(event_idx: bool, poll: Duration) -> (Self, Virtqueue) {
        let (driver, prepared) = Self::prepared(event_idx, poll);
        (driver, prepared.activate().unwrap())
    }

    /// A queue that nobody serves yet.
    pub(super) fn prepared(event_idx: bool, poll: Duration) -> (Self, Prepared) {
        let regions = [
            (GuestAddress(0), BORDER as usize),
            (GuestAddress(BORDER), (GAP - BORDER) as usize),
            (GuestAddress(GAP + 0x1000), (END - GAP - 0x1000) as usize),
        ];
        let memory = Arc::new(Memory::from_ranges(&regions).unwrap());
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let (calls, faults) = (Arc::<AtomicU32>::default(), Arc::<Mutex<_>>::default());
        let setup = Setup {
            config: Self::config(event_idx),
            map: GuestMap::of(memory.clone()).unwrap(),
            kick: kick.try_clone().unwrap(),
            call: Some(counting(&calls)),
            on_fault: Some(Box::new(note(&faults))),
            protocol: protocol(),
            poll,
        };
        let (prepared, control) = setup.prepare().unwrap();
        (
            Self {
                memory,
                calls,
                faults,
                control,
                kick,
                event_idx,
                next: 0,
                dirty: BTreeSet::new(),
            },
            prepared,
        )
    }

    pub(super) fn config(event_idx: bool) -> QueueConfig {
        QueueConfig {
            size: SIZE,
            desc: DESC,
            avail: AVAIL,
            used: USED,
            event_idx,
            next_used: Some(0),
            used_log: Some(USED),
            ..Default::default()
        }
    }

    pub(super) fn describe(&self, index: u16, (addr, len, flags, next): Desc) {
        self.describe_at(DESC + u64::from(index) * 16, (addr, len, flags, next));
    }

    /// Writes a descriptor anywhere.
    pub(super) fn describe_at(&self, at: u64, (addr, len, flags, next): Desc) {
        let raw = u128::from(addr)
            | u128::from(len) << 64
            | u128::from(flags) << 96
            | u128::from(next) << 112;
        self.memory.write_slice(&raw.to_le_bytes(), GuestAddress(at)).unwrap();
    }

    /// Makes `head` available.
    pub(super) fn offer(&mut self, head: u16) {
        self.put_avail(self.next, head);
        self.next = self.next.wrapping_add(1);
        self.set_avail(self.next);
    }

    pub(super) fn put_avail(&self, index: u16, head: u16) {
        self.store(AVAIL + 4 + u64::from(index % SIZE) * 2, head);
    }

    pub(super) fn set_avail(&self, index: u16) {
        self.store(AVAIL + 2, index);
    }

    pub(super) fn kick(&self) {
        rustix::io::write(&self.kick, &1u64.to_ne_bytes()).unwrap();
    }

    /// Puts a message into chain `head`: `bytes` to read, then room for `room` bytes.
    pub(super) fn send(&mut self, head: u16, bytes: &[u8], room: u32) {
        let at = message_at(head);
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        self.describe(head, (at, len, NEXT, head + 1));
        self.describe(head + 1, (at + 0x800, room, WRITE, 0));
        self.offer(head);
    }

    /// What was written to the room of chain `head`.
    pub(super) fn reply(&self, head: u16, len: usize) -> Vec<u8> {
        self.bytes(message_at(head) + 0x800, len)
    }

    pub(super) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    pub(super) fn used(&self) -> u16 {
        self.load(USED + 2)
    }

    pub(super) fn used_flags(&self) -> u16 {
        self.load(USED)
    }

    /// Answer `index`: head and length.
    pub(super) fn answer(&self, index: u16) -> (u32, u32) {
        let at = USED + 4 + u64::from(index % SIZE) * 8;
        let raw = u64::from_le_bytes(self.bytes(at, 8).try_into().unwrap());
        (raw as u32, (raw >> 32) as u32)
    }

    /// After which index of the used ring the driver wants to be told.
    pub(super) fn set_used_event(&self, index: u16) {
        assert!(self.event_idx);
        self.store(AVAIL + 4 + u64::from(SIZE) * 2, index);
    }

    pub(super) fn avail_event(&self) -> u16 {
        self.load(USED + 4 + u64::from(SIZE) * 8)
    }

    pub(super) fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    /// The numbers of the pages that were marked dirty since the last call, and never before.
    pub(super) fn newly_dirty(&mut self) -> Vec<u64> {
        use vm_memory::{Address, GuestMemoryRegion, bitmap::Bitmap};
        let mut pages = BTreeSet::new();
        for region in self.memory.iter() {
            let start = region.start_addr().raw_value();
            let dirty = |at: &u64| region.bitmap().dirty_at(*at as usize);
            pages.extend(
                (0..region.len()).step_by(4096).filter(dirty).map(|at| (start + at) / 4096),
            );
        }
        let new = pages.difference(&self.dirty).copied().collect();
        self.dirty = pages;
        new
    }

    fn store(&self, at: u64, value: u16) {
        self.memory.store(value, GuestAddress(at), Ordering::SeqCst).unwrap();
    }

    fn load(&self, at: u64) -> u16 {
        self.memory.load(GuestAddress(at), Ordering::SeqCst).unwrap()
    }
}

pub(super) fn protocol() -> Config {
    Config { header_split: 80, reply_header: REPLY_HEADER, max_data: 1 << 20, depth: 4 }
}

/// Where the message of chain `head` lies.
pub(super) fn message_at(head: u16) -> u64 {
    DATA + u64::from(head) * 0x1000
}

fn note(faults: &Arc<Mutex<Vec<QueueFault>>>) -> impl Fn(QueueFault) + Send + use<> {
    let faults = faults.clone();
    move |fault| faults.lock().unwrap().push(fault)
}

pub(super) fn counting(count: &Arc<AtomicU32>) -> Call {
    let count = count.clone();
    Call::Function(Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }))
}
