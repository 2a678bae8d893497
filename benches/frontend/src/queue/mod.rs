//! The driver's half of a split virtqueue (virtio 1.2, section 2.7).

mod bell;
mod ring;
#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::memory::{Arena, Region, Segment};
pub use bell::Bell;
pub use ring::{Descriptor, INDIRECT, NEXT, Ring, WRITE};

/// How long a wait looks at the ring before it sleeps.
const LOOKS: u32 = 32;

/// Whether chains lie in the ring or in tables of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// One descriptor after the other in the ring.
    #[default]
    Chained,
    /// A table of the queue, whose place is one descriptor in the ring.
    Indirect,
}

/// What a queue is made with.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    /// Entries of the ring; a power of two.
    pub size: u16,
    /// Entries of each indirect table.
    pub table_len: u16,
    /// EVENT_IDX was negotiated.
    pub event_idx: bool,
}

/// What the device gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The chain's first descriptor, as [`Queue::submit`] named it.
    pub head: u16,
    /// The bytes that the device says it wrote.
    pub len: u32,
}

/// A virtqueue, driven by one thread.
#[derive(Debug)]
pub struct Queue {
    ring: Ring,
    /// Guest address of the indirect tables, one a head.
    tables: u64,
    options: QueueOptions,
    free: Vec<u16>,
    /// Of each head in flight, the descriptors of its chain; empty if it is not in flight.
    chains: Vec<Vec<u16>>,
    in_flight: u16,
    /// The next index to make available, and the last that the device was told.
    available: u16,
    published: u16,
    /// The next index to take back.
    used: u16,
    bell: Bell,
    looks: u32,
}

impl Queue {
    /// A queue whose ring and tables lie in `arena`.
    pub fn new(arena: &mut Arena, options: QueueOptions) -> Result<Self> {
        let size = options.size;
        if !size.is_power_of_two() || size > 1 << 15 {
            return Err(Error::NoRoom("a ring has a power of two entries, 32768 at most"));
        }
        let ring = Ring::new(arena, size)?;
        let tables = arena.take(u64::from(size) * u64::from(options.table_len) * 16, 16)?;
        let mut queue = Queue {
            ring,
            tables,
            free: Vec::with_capacity(size.into()),
            chains: vec![Vec::new(); size.into()],
            in_flight: 0,
            available: 0,
            published: 0,
            used: 0,
            bell: Bell::new()?,
            looks: LOOKS,
            options,
        };
        queue.reset();
        Ok(queue)
    }

    /// Forgets everything, as after a reset of the device.
    pub fn reset(&mut self) {
        self.ring.clear();
        self.free = (0..self.options.size).rev().collect();
        self.chains.iter_mut().for_each(Vec::clear);
        (self.in_flight, self.available, self.published, self.used) = (0, 0, 0, 0);
        self.bell.drain();
        if !self.options.event_idx {
            self.ring.set_available_flags(1);
        }
    }

    /// How often a wait looks at the ring before it sleeps on the call descriptor.
    pub fn set_looks(&mut self, looks: u32) {
        self.looks = looks;
    }

    /// The ring itself, for what no driver should do.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The region of the ring.
    pub fn region(&self) -> &Arc<Region> {
        self.ring.region()
    }

    /// The eventfds, and who is at the other end.
    pub fn bell_mut(&mut self) -> &mut Bell {
        &mut self.bell
    }

    /// The eventfd by which the device is told of new chains.
    pub fn kick_fd(&self) -> BorrowedFd<'_> {
        self.bell.kick_fd()
    }

    /// The eventfd by which the device tells of used chains.
    pub fn call_fd(&self) -> BorrowedFd<'_> {
        self.bell.call_fd()
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.options.size
    }

    /// Chains that the device has not given back.
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// The index of the next chain to be given back: where a stopped device goes on.
    pub fn used_index(&self) -> u16 {
        self.used
    }

    /// Puts a chain into the ring. The device sees it after [`publish`](Self::publish).
    pub fn submit(
        &mut self,
        readable: &[Segment],
        writable: &[Segment],
        form: Form,
    ) -> Result<u16> {
        let count = readable.len() + writable.len();
        let head = match form {
            Form::Chained => self.chain(readable, writable, count)?,
            Form::Indirect => self.table(readable, writable, count)?,
        };
        self.push(head);
        self.in_flight += 1;
        Ok(head)
    }

    /// Makes `head` the next available entry, whatever it is, without telling the device.
    pub fn push(&mut self, head: u16) {
        self.ring.set_available(self.available, head);
        self.available = self.available.wrapping_add(1);
    }

    /// Lets the device see what was submitted, and kicks it if it asked for that.
    pub fn publish(&mut self) -> Result<()> {
        if self.available == self.published {
            return Ok(());
        }
        let before = self.published;
        self.ring.set_available_index(self.available);
        self.published = self.available;
        // The index must be visible before we look whether the device wants to be told.
        fence(Ordering::SeqCst);
        let wanted = if self.options.event_idx {
            passed(self.ring.available_event(), self.available, before)
        } else {
            self.ring.used_flags() & 1 == 0
        };
        if wanted { self.bell.kick() } else { Ok(()) }
    }

    /// Kicks the device whether it asked for that or not.
    pub fn kick(&self) -> Result<()> {
        self.bell.kick()
    }

    /// Jumps over `entries` available entries without filling them.
    pub fn jump(&mut self, entries: u16) {
        self.available = self.available.wrapping_add(entries);
    }

    /// The next chain that the device gave back.
    pub fn pop(&mut self) -> Result<Option<Used>> {
        if !self.has_used() {
            return Ok(None);
        }
        let (id, len) = self.ring.used_entry(self.used);
        self.used = self.used.wrapping_add(1);
        let chain = u16::try_from(id).ok().and_then(|id| self.chains.get_mut(usize::from(id)));
        let Some(chain) = chain.filter(|chain| !chain.is_empty()) else {
            return Err(Error::Protocol(format!("used entry {id} names no chain in flight")));
        };
        self.free.append(chain);
        self.in_flight -= 1;
        Ok(Some(Used { head: id as u16, len }))
    }

    /// Waits for a used chain.
    pub fn wait(&mut self, limit: Duration) -> Result<()> {
        for _ in 0..self.looks {
            if self.has_used() {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        let deadline = Instant::now() + limit;
        self.ask_for_call(true);
        while !self.has_used() {
            let left = deadline.saturating_duration_since(Instant::now());
            let waited = self.bell.wait(left);
            if let Err(error) = waited {
                // It may have answered and left.
                return if self.has_used() { Ok(()) } else { Err(error) };
            }
            self.ask_for_call(true);
        }
        self.ask_for_call(false);
        Ok(())
    }

    /// Whether the device gave something back.
    pub fn has_used(&self) -> bool {
        self.ring.used_index() != self.used
    }

    fn ask_for_call(&self, wanted: bool) {
        if !self.options.event_idx {
            self.ring.set_available_flags(u16::from(!wanted));
        } else if wanted {
            // An old index asks for nothing: there is nothing to take back.
            self.ring.set_used_event(self.used);
        }
        // The wish must be visible before the last look at the used index.
        fence(Ordering::SeqCst);
    }

    fn chain(&mut self, readable: &[Segment], writable: &[Segment], count: usize) -> Result<u16> {
        if count == 0 || count > self.free.len() {
            return Err(Error::NoRoom("the ring has too few free descriptors"));
        }
        let start = self.free.len() - count;
        let head = self.free[self.free.len() - 1];
        let mut chain = std::mem::take(&mut self.chains[usize::from(head)]);
        chain.extend(self.free.drain(start..).rev());
        let segments = directed(readable, writable);
        for (at, (segment, flags)) in segments.enumerate() {
            let next = chain.get(at + 1).copied();
            let flags = flags | next.map_or(0, |_| NEXT);
            let next = next.unwrap_or(0);
            self.ring.set_descriptor(chain[at], Descriptor::of(segment, flags, next));
        }
        self.chains[usize::from(head)] = chain;
        Ok(head)
    }

    fn table(&mut self, readable: &[Segment], writable: &[Segment], count: usize) -> Result<u16> {
        if count == 0 || count > usize::from(self.options.table_len) {
            return Err(Error::NoRoom("an indirect table is too short"));
        }
        let head = self.free.pop().ok_or(Error::NoRoom("the ring is full"))?;
        let table = self.table_address(head);
        for (at, (segment, flags)) in directed(readable, writable).enumerate() {
            let more = at + 1 < count;
            let flags = flags | if more { NEXT } else { 0 };
            let descriptor = Descriptor::of(segment, flags, if more { at as u16 + 1 } else { 0 });
            self.region().write(table + at as u64 * 16, &descriptor.bytes());
        }
        let place = Segment { addr: table, len: count as u32 * 16 };
        self.ring.set_descriptor(head, Descriptor::of(place, INDIRECT, 0));
        self.chains[usize::from(head)].push(head);
        Ok(head)
    }

    /// The head that the next chain will have. Meaningless while the ring is full.
    pub fn next_head(&self) -> u16 {
        self.free.last().copied().unwrap_or(0)
    }

    /// Where the indirect table of a head lies.
    pub fn table_address(&self, head: u16) -> u64 {
        self.tables + u64::from(head) * u64::from(self.options.table_len) * 16
    }
}

fn directed<'a>(
    readable: &'a [Segment],
    writable: &'a [Segment],
) -> impl Iterator<Item = (Segment, u16)> + 'a {
    let readable = readable.iter().map(|segment| (*segment, 0));
    readable.chain(writable.iter().map(|segment| (*segment, WRITE)))
}

/// Whether an index that went from `old` to `new` passed `event`.
fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
