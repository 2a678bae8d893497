//! The three parts of a ring in guest memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::Result;
use crate::memory::{Arena, Region, Segment};

/// Descriptor flag: `next` is meant.
pub const NEXT: u16 = 1;
/// Descriptor flag: the device writes.
pub const WRITE: u16 = 2;
/// Descriptor flag: a table of descriptors.
pub const INDIRECT: u16 = 4;

/// One descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification documents them")]
pub struct Descriptor {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

/// The places of a ring's parts. Every method does what it says and checks nothing.
#[derive(Clone, Debug)]
pub struct Ring {
    region: Arc<Region>,
    size: u16,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub available: u64,
    /// Guest address of the used ring.
    pub used: u64,
}

impl Descriptor {
    pub(super) fn of(segment: Segment, flags: u16, next: u16) -> Self {
        Descriptor { addr: segment.addr, len: segment.len, flags, next }
    }

    /// As it lies in memory.
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

impl Ring {
    pub(super) fn new(arena: &mut Arena, size: u16) -> Result<Self> {
        let entries = u64::from(size);
        // The device's part has cache lines of its own.
        let descriptors = arena.take(entries * 16, 64)?;
        let available = arena.take(6 + entries * 2, 64)?;
        let used = arena.take(6 + entries * 8, 64)?;
        Ok(Ring { region: Arc::clone(arena.region()), size, descriptors, available, used })
    }

    /// The region in which it lies.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    pub(super) fn clear(&self) {
        let entries = usize::from(self.size);
        self.region.fill(self.descriptors, entries * 16, 0);
        self.region.fill(self.available, 6 + entries * 2, 0);
        self.region.fill(self.used, 6 + entries * 8, 0);
    }

    /// Writes a descriptor of the table.
    pub fn set_descriptor(&self, at: u16, descriptor: Descriptor) {
        self.region.write(self.descriptors + u64::from(at) * 16, &descriptor.bytes());
    }

    /// Writes an entry of the available ring.
    pub fn set_available(&self, index: u16, head: u16) {
        let at = u64::from(index % self.size);
        self.region.store(self.available + 4 + at * 2, head.to_le(), Ordering::Relaxed);
    }

    /// Publishes the available ring up to here.
    pub fn set_available_index(&self, index: u16) {
        self.region.store(self.available + 2, index.to_le(), Ordering::Release);
    }

    /// The flags of the available ring.
    pub fn set_available_flags(&self, flags: u16) {
        self.region.store(self.available, flags.to_le(), Ordering::Relaxed);
    }

    /// With EVENT_IDX: call when the used index passes this.
    pub fn set_used_event(&self, index: u16) {
        let at = self.available + 4 + u64::from(self.size) * 2;
        self.region.store(at, index.to_le(), Ordering::Relaxed);
    }

    /// How far the device used the ring.
    pub fn used_index(&self) -> u16 {
        u16::from_le(self.region.load(self.used + 2, Ordering::Acquire))
    }

    /// The flags of the used ring.
    pub fn used_flags(&self) -> u16 {
        u16::from_le(self.region.load(self.used, Ordering::Relaxed))
    }

    /// With EVENT_IDX: kick when the available index passes this.
    pub fn available_event(&self) -> u16 {
        let at = self.used + 4 + u64::from(self.size) * 8;
        u16::from_le(self.region.load(at, Ordering::Relaxed))
    }

    /// Id and length of an entry of the used ring.
    pub fn used_entry(&self, index: u16) -> (u32, u32) {
        let at = u64::from(index % self.size);
        let [id, len]: [u32; 2] =
            zerocopy::transmute!(self.region.read_array::<8>(self.used + 4 + at * 8));
        (u32::from_le(id), u32::from_le(len))
    }
}
