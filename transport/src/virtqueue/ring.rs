//! The split ring itself.

use std::{
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering, fence},
    },
};

use crate::mem::{GuestMap, Outside};

/// Where a ring is, in the guest's addresses, and how far it was used.
#[derive(Clone, Debug, Default)]
pub struct QueueConfig {
    /// Entries, a power of two up to 32768.
    pub size: u16,
    /// The descriptor table.
    pub desc: u64,
    /// The available ring.
    pub avail: u64,
    /// The used ring.
    pub used: u64,
    /// Whether VIRTIO_RING_F_EVENT_IDX was negotiated.
    pub event_idx: bool,
    /// The index of the next message to take.
    pub next_avail: u16,
    /// The index of the next answer; `None` for the one that is in the ring.
    pub next_used: Option<u16>,
    /// Where writes to the used ring are noted: the guest's address of its first byte; `None` where
    /// nobody asks for them.
    pub used_log: Option<u64>,
}

impl QueueConfig {
    /// A queue as a virtual machine monitor has configured it.
    pub fn of(queue: &virtio_queue::Queue) -> Self {
        use virtio_queue::QueueT as _;
        Self {
            size: queue.size(),
            desc: queue.desc_table(),
            avail: queue.avail_ring(),
            used: queue.used_ring(),
            event_idx: queue.event_idx_enabled(),
            next_avail: queue.next_avail(),
            next_used: Some(queue.next_used()),
            used_log: Some(queue.used_ring()),
        }
    }
}

/// Why a ring cannot be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QueueError {
    /// The size is none that a ring has.
    #[error("{0} entries are no power of two from 1 to 32768")]
    Size(u16),
    /// The address of a part is not aligned as it has to be.
    #[error("{0:#x} is not aligned for its part of a ring")]
    Unaligned(u64),
    /// A part is not, as a whole, in one region of the guest's memory.
    #[error("{0:#x} is not in the guest's memory")]
    Outside(u64),
}

/// The guest made the ring unusable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Broken(pub(super) &'static str);

/// A descriptor: what is at `addr`, `len` bytes.
#[derive(Clone, Copy)]
pub(super) struct Descriptor {
    pub(super) addr: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: usize = 16;

/// Bytes of an entry of the used ring.
const USED_ELEMENT: usize = 8;

/// Bytes before the entries of the available and the used ring: flags, index.
const RING_HEAD: usize = 4;

const VIRTQ_USED_F_NO_NOTIFY: u16 = 1;
const VIRTQ_AVAIL_F_NO_INTERRUPT: u16 = 1;

pub(super) struct Ring {
    map: Arc<GuestMap>,
    size: u16,
    desc: NonNull<u8>,
    avail: NonNull<u8>,
    used: NonNull<u8>,
    used_log: Option<u64>,
    event_idx: bool,
    next_avail: u16,
    /// The available index as it was read last.
    seen_avail: u16,
    next_used: u16,
    /// The used index when the guest was last told, or asked not to be; `None` before.
    told_used: Option<u16>,
    /// Without EVENT_IDX: the guest was asked not to kick.
    is_muted: bool,
}

// SAFETY: the addresses are those of mappings that `map` holds, which are not tied to a thread.
unsafe impl Send for Ring {}

impl Ring {
    pub(super) fn new(config: &QueueConfig, map: Arc<GuestMap>) -> Result<Self, QueueError> {
        if config.size > 32768 || !config.size.is_power_of_two() {
            return Err(QueueError::Size(config.size));
        }
        let size = usize::from(config.size);
        let mut ring = Self {
            desc: part(&map, config.desc, size * DESCRIPTOR, 16)?,
            // With the event index that follows the entries.
            avail: part(&map, config.avail, RING_HEAD + size * 2 + 2, 2)?,
            used: part(&map, config.used, RING_HEAD + size * USED_ELEMENT + 2, 4)?,
            map,
            size: config.size,
            used_log: config.used_log,
            event_idx: config.event_idx,
            next_avail: config.next_avail,
            seen_avail: config.next_avail,
            next_used: 0,
            told_used: None,
            is_muted: false,
        };
        ring.next_used = match config.next_used {
            Some(next) => next,
            None => u16::from_le(ring.cell(ring.used, 2).load(Ordering::Acquire)),
        };
        Ok(ring)
    }

    /// The same ring at the addresses of `config`, in `map`.
    pub(super) fn moved(
        &self,
        config: &QueueConfig,
        map: Arc<GuestMap>,
    ) -> Result<Self, QueueError> {
        let mut moved = Self::new(&QueueConfig { size: self.size, ..config.clone() }, map)?;
        moved.used_log = self.used_log;
        moved.event_idx = self.event_idx;
        moved.next_avail = self.next_avail;
        moved.seen_avail = self.next_avail;
        moved.next_used = self.next_used;
        Ok(moved)
    }

    pub(super) fn map(&self) -> &Arc<GuestMap> {
        &self.map
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    pub(super) fn next_avail(&self) -> u16 {
        self.next_avail
    }

    pub(super) fn set_used_log(&mut self, used_log: Option<u64>) {
        self.used_log = used_log;
    }

    /// Takes the head of the next chain.
    pub(super) fn take(&mut self) -> Result<Option<u16>, Broken> {
        if !self.has_more() {
            return Ok(None);
        }
        if self.seen_avail.wrapping_sub(self.next_avail) > self.size {
            return Err(Broken("more messages are available than the ring has entries"));
        }
        let at = RING_HEAD + usize::from(self.next_avail & (self.size - 1)) * 2;
        let head = u16::from_le(self.cell(self.avail, at).load(Ordering::Relaxed));
        if head >= self.size {
            return Err(Broken("a head is no descriptor of the ring"));
        }
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(head))
    }

    /// Whether the guest has made more messages available.
    pub(super) fn has_more(&mut self) -> bool {
        if self.seen_avail == self.next_avail {
            self.seen_avail = u16::from_le(self.cell(self.avail, 2).load(Ordering::Acquire));
        }
        self.seen_avail != self.next_avail
    }

    /// How many messages are known to be available.
    pub(super) fn waiting(&self) -> u16 {
        self.seen_avail.wrapping_sub(self.next_avail)
    }

    /// One descriptor of the table. The guest may change it at any time: it is read once.
    pub(super) fn descriptor(&self, index: u16) -> Option<Descriptor> {
        if index >= self.size {
            return None;
        }
        // SAFETY: the table has `size` descriptors, all of them mapped, at an aligned address.
        let raw = unsafe { self.desc.cast::<[u8; DESCRIPTOR]>().add(index.into()).read_volatile() };
        Some(Descriptor::parse(raw))
    }

    /// Writes one answer: `len` bytes were written to the chain of `head`. Not yet published.
    pub(super) fn answer(&mut self, head: u16, len: u32) {
        let at = RING_HEAD + usize::from(self.next_used & (self.size - 1)) * USED_ELEMENT;
        let element = u64::from(head) | u64::from(len) << 32;
        // SAFETY: the used ring has `size` elements behind its head, mapped; an element is aligned to 4.
        unsafe { self.used.add(at).cast::<[u8; 8]>().write_volatile(element.to_le_bytes()) };
        self.log_used(at, USED_ELEMENT);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Shows the guest the answers so far. Returns whether it wants to be told.
    pub(super) fn publish(&mut self) -> bool {
        self.cell(self.used, 2).store(self.next_used.to_le(), Ordering::Release);
        self.log_used(2, 2);
        // What the guest says it has seen is read after it can see the answers: one of both sides
        // notices the other.
        fence(Ordering::SeqCst);
        let told = self.told_used.replace(self.next_used);
        if !self.event_idx {
            return self.wants_interrupts();
        }
        let event = self.used_event();
        told.is_none_or(|told| {
            let since = self.next_used.wrapping_sub(told);
            self.next_used.wrapping_sub(event).wrapping_sub(1) < since
        })
    }

    fn wants_interrupts(&self) -> bool {
        let flags = u16::from_le(self.cell(self.avail, 0).load(Ordering::Relaxed));
        flags & VIRTQ_AVAIL_F_NO_INTERRUPT == 0
    }

    /// The index of the answer of which the guest wants to be told.
    fn used_event(&self) -> u16 {
        let at = RING_HEAD + usize::from(self.size) * 2;
        u16::from_le(self.cell(self.avail, at).load(Ordering::Relaxed))
    }

    /// Whether the guest has said, since it was told last, that it waits for the next answer. Without
    /// EVENT_IDX it says only whether it wants to be told at all.
    pub(super) fn guest_sleeps(&self) -> bool {
        self.event_idx && self.told_used.is_none_or(|told| self.used_event() == told)
    }

    /// Asks the guest to kick for the next message. Returns whether there is one already.
    pub(super) fn listen(&mut self) -> bool {
        if self.event_idx {
            let at = RING_HEAD + usize::from(self.size) * USED_ELEMENT;
            self.cell(self.used, at).store(self.next_avail.to_le(), Ordering::Relaxed);
            self.log_used(at, 2);
        } else {
            self.set_muted(false);
        }
        // The wish is visible before the index is looked at again: one of both sides notices.
        fence(Ordering::SeqCst);
        self.has_more()
    }

    /// Asks the guest not to kick while messages are taken anyway. With EVENT_IDX it does so by itself.
    pub(super) fn mute(&mut self) {
        if !self.event_idx && !self.is_muted {
            self.set_muted(true);
        }
    }

    fn set_muted(&mut self, muted: bool) {
        self.is_muted = muted;
        let flags = if muted { VIRTQ_USED_F_NO_NOTIFY } else { 0 };
        self.cell(self.used, 0).store(flags.to_le(), Ordering::Relaxed);
        self.log_used(0, 2);
    }

    /// Notes a write, after it: who copies the page before the write clears the note.
    fn log_used(&self, at: usize, len: usize) {
        if let Some(base) = self.used_log {
            self.map.mark_dirty(base.wrapping_add(at as u64), len);
        }
    }

    /// Sixteen bits of a part of the ring.
    fn cell(&self, part: NonNull<u8>, at: usize) -> &AtomicU16 {
        // SAFETY: callers give offsets inside the part, which is mapped as long as `map` is held, and
        // even: the part is aligned to 2. Both sides access these cells as single units.
        unsafe { AtomicU16::from_ptr(part.add(at).cast::<u16>().as_ptr()) }
    }
}

impl Descriptor {
    pub(super) const NEXT: u16 = 1;
    pub(super) const WRITE: u16 = 2;
    pub(super) const INDIRECT: u16 = 4;

    pub(super) fn parse(raw: [u8; DESCRIPTOR]) -> Self {
        let raw = u128::from_le_bytes(raw);
        // The fields, from the low bits up.
        Self {
            addr: raw as u64,
            len: (raw >> 64) as u32,
            flags: (raw >> 96) as u16,
            next: (raw >> 112) as u16,
        }
    }

    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Finds one part of a ring.
fn part(map: &GuestMap, addr: u64, len: usize, align: u64) -> Result<NonNull<u8>, QueueError> {
    if !addr.is_multiple_of(align) {
        return Err(QueueError::Unaligned(addr));
    }
    let host = map.whole(addr, len).map_err(|Outside| QueueError::Outside(addr))?;
    // A region that is mapped at an odd address would make cells unaligned.
    if host.as_ptr().align_offset(4) % 2 != 0 {
        return Err(QueueError::Unaligned(addr));
    }
    Ok(host)
}
