//! From the head of a chain to the memory of its message.

use super::ring::{DESCRIPTOR, Descriptor, Ring};
use crate::mem::{Chain, GuestMap};

/// The most descriptors of one message: a megabyte in pieces of 256 bytes.
pub(super) const CHAIN_MAX: usize = 4096;

/// The most ranges of memory of one message: a descriptor has several where it crosses regions.
pub(super) const RANGES_MAX: usize = 2 * CHAIN_MAX;

/// Why a chain is no message.
pub(super) type Malformed = &'static str;

/// Reads the descriptors of one chain, each of them once. `table` is reused memory.
pub(super) fn walk(
    ring: &Ring,
    head: u16,
    chain: &mut Chain,
    table: &mut Vec<[u8; DESCRIPTOR]>,
) -> Result<(), Malformed> {
    chain.clear();
    let mut walk = Walk { chain, left: CHAIN_MAX.min(ring.size().into()), is_writable: false };
    let mut index = head;
    loop {
        let descriptor = ring.descriptor(index).ok_or("a descriptor outside the table")?;
        if descriptor.has(Descriptor::INDIRECT) {
            return walk.indirect(ring.map(), descriptor, table);
        }
        walk.take(descriptor)?;
        if !descriptor.has(Descriptor::NEXT) {
            return Ok(());
        }
        index = descriptor.next;
    }
}

struct Walk<'c> {
    chain: &'c mut Chain,
    /// How many descriptors may follow: a loop ends here.
    left: usize,
    is_writable: bool,
}

impl Walk<'_> {
    fn take(&mut self, descriptor: Descriptor) -> Result<(), Malformed> {
        self.left = self.left.checked_sub(1).ok_or("too many descriptors, or a loop of them")?;
        let Descriptor { addr, len, .. } = descriptor;
        let found = if descriptor.has(Descriptor::WRITE) {
            self.is_writable = true;
            self.chain.push_writable(addr, len)
        } else if self.is_writable {
            return Err("a readable descriptor behind a writable one");
        } else {
            self.chain.push_readable(addr, len)
        };
        found.map_err(|_| "a descriptor of memory that the guest does not have")?;
        if self.chain.pieces() > RANGES_MAX {
            return Err("too many ranges of memory");
        }
        Ok(())
    }

    /// The rest of the chain, in a table of its own.
    fn indirect(
        mut self,
        map: &GuestMap,
        descriptor: Descriptor,
        table: &mut Vec<[u8; DESCRIPTOR]>,
    ) -> Result<(), Malformed> {
        if descriptor.has(Descriptor::NEXT) {
            return Err("a descriptor behind an indirect table");
        }
        let len = descriptor.len as usize;
        if len == 0 || !len.is_multiple_of(DESCRIPTOR) {
            return Err("an indirect table that is no list of descriptors");
        }
        self.left = CHAIN_MAX;
        read_table(map, descriptor.addr, (len / DESCRIPTOR).min(CHAIN_MAX), table)?;
        let mut index = 0;
        loop {
            let raw = table.get(index).ok_or("a descriptor outside its indirect table")?;
            let descriptor = Descriptor::parse(*raw);
            if descriptor.has(Descriptor::INDIRECT) {
                return Err("an indirect table in an indirect table");
            }
            self.take(descriptor)?;
            if !descriptor.has(Descriptor::NEXT) {
                return Ok(());
            }
            index = descriptor.next.into();
        }
    }
}

/// Copies the first `count` descriptors of an indirect table: the guest may change it while we look.
fn read_table(
    map: &GuestMap,
    addr: u64,
    count: usize,
    table: &mut Vec<[u8; DESCRIPTOR]>,
) -> Result<(), Malformed> {
    table.clear();
    table.resize(count, [0; DESCRIPTOR]);
    map.read(addr, table.as_flattened_mut())
        .map_err(|_| "an indirect table outside the guest's memory")
}
