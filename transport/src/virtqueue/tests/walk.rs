//! What a chain may make us keep.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::super::{
    QueueConfig,
    ring::{DESCRIPTOR, Ring},
    walk::{CHAIN_MAX, RANGES_MAX, walk},
};
use super::driver::{INDIRECT, NEXT};
use crate::mem::{Chain, GuestMap, Pool};

const PAGE: u64 = 4096;

/// As many regions as a front-end may have.
const REGIONS: u64 = 509;

#[test]
fn a_chain_of_descriptors_that_cross_every_region_has_a_limit() {
    // The first region has ring and table; each of the others has one page, and they touch.
    let first = (GuestAddress(0), 0x40000);
    let pages = (0..REGIONS).map(|page| (GuestAddress(0x40000 + page * PAGE), PAGE as usize));
    let ranges: Vec<_> = std::iter::once(first).chain(pages).collect();
    let memory = Arc::new(GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap());
    let describe = |at: u64, (addr, len, flags, next): (u64, u32, u16, u16)| {
        let raw = u128::from(addr)
            | u128::from(len) << 64
            | u128::from(flags) << 96
            | u128::from(next) << 112;
        memory.write_slice(&raw.to_le_bytes(), GuestAddress(at)).unwrap();
    };
    const TABLE: u64 = 0x10000;
    let len = CHAIN_MAX * DESCRIPTOR;
    describe(0, (TABLE, u32::try_from(len).unwrap(), INDIRECT, 0));
    let all = u32::try_from(REGIONS * PAGE).unwrap();
    for at in 0..u16::try_from(CHAIN_MAX).unwrap() {
        let next = if usize::from(at) + 1 < CHAIN_MAX { NEXT } else { 0 };
        describe(TABLE + u64::from(at) * 16, (0x40000, all, next, at + 1));
    }
    let map = Arc::new(GuestMap::of(memory).unwrap());
    let config = QueueConfig { size: 8, avail: 0x1000, used: 0x2000, ..Default::default() };
    let ring = Ring::new(&config, map.clone()).unwrap();
    let mut chain = Chain::new(map, Pool::new());

    let walked = walk(&ring, 0, &mut chain, &mut Vec::new());

    assert!(walked.is_err());
    assert!(chain.pieces() <= RANGES_MAX + REGIONS as usize, "{}", chain.pieces());
}
