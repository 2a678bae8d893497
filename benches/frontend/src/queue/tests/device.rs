//! The device's half of a ring, written for these tests alone: it trusts its driver and copies everything.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::super::{Descriptor, INDIRECT, NEXT, Ring, WRITE};
use crate::memory::{Region, Segment};

/// A chain as the device sees it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) head: u16,
    pub(super) readable: Vec<Segment>,
    pub(super) writable: Vec<Segment>,
}

/// Takes chains and gives them back.
pub(super) struct Device {
    ring: Ring,
    size: u16,
    available: u16,
    used: u16,
    signalled: u16,
}

impl Device {
    pub(super) fn new(ring: &Ring, size: u16) -> Self {
        Device { ring: ring.clone(), size, available: 0, used: 0, signalled: 0 }
    }

    fn region(&self) -> &Arc<Region> {
        self.ring.region()
    }

    /// The next available chain.
    pub(super) fn take(&mut self) -> Option<Chain> {
        let index = self.region().load(self.ring.available + 2, Ordering::Acquire);
        if index == self.available {
            return None;
        }
        let at = u64::from(self.available % self.size) * 2;
        let head = self.region().load(self.ring.available + 4 + at, Ordering::Relaxed);
        self.available = self.available.wrapping_add(1);
        let mut chain = Chain { head, ..Chain::default() };
        self.walk(self.ring.descriptors, head, &mut chain);
        Some(chain)
    }

    fn walk(&self, table: u64, first: u16, chain: &mut Chain) {
        let mut at = first;
        loop {
            let descriptor = self.descriptor(table + u64::from(at) * 16);
            let Descriptor { addr, len, flags, next } = descriptor;
            let segment = Segment { addr, len };
            match flags & !NEXT {
                0 => {
                    assert!(chain.writable.is_empty(), "readable after writable");
                    chain.readable.push(segment);
                }
                WRITE => chain.writable.push(segment),
                INDIRECT => {
                    assert_eq!(flags, INDIRECT, "a table ends its chain");
                    return self.walk(addr, 0, chain);
                }
                other => panic!("descriptor flags {other}"),
            }
            if flags & NEXT == 0 {
                return;
            }
            at = next;
        }
    }

    fn descriptor(&self, addr: u64) -> Descriptor {
        let bytes = self.region().read_array::<16>(addr);
        let part = |from: usize, len: usize| {
            bytes[from..from + len]
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte))
        };
        Descriptor {
            addr: part(0, 8),
            len: part(8, 4) as u32,
            flags: part(12, 2) as u16,
            next: part(14, 2) as u16,
        }
    }

    /// Gives a chain back. It is seen after [`publish`](Self::publish).
    pub(super) fn give(&mut self, head: u16, len: u32) {
        let entry = self.ring.used + 4 + u64::from(self.used % self.size) * 8;
        self.region().write(entry, &u32::from(head).to_le_bytes());
        self.region().write(entry + 4, &len.to_le_bytes());
        self.used = self.used.wrapping_add(1);
    }

    /// Publishes; true if the driver wants to be called.
    pub(super) fn publish(&mut self, event_idx: bool) -> bool {
        let before = std::mem::replace(&mut self.signalled, self.used);
        self.region().store(self.ring.used + 2, self.used, Ordering::Release);
        fence(Ordering::SeqCst);
        if !event_idx {
            return self.region().load(self.ring.available, Ordering::Relaxed) & 1 == 0;
        }
        let at = self.ring.available + 4 + u64::from(self.size) * 2;
        let event = self.region().load(at, Ordering::Relaxed);
        super::super::passed(event, self.used, before)
    }

    /// Asks to be kicked for the next available chain. True if one is there already.
    pub(super) fn want_kick(&mut self) -> bool {
        let at = self.ring.used + 4 + u64::from(self.size) * 8;
        self.region().store(at, self.available, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.region().load(self.ring.available + 2, Ordering::Acquire) != self.available
    }
}
