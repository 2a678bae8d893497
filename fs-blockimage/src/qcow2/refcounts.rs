//! Blocks of refcounts.

use std::ops::Range;

/// For each cluster the higher of two refcounts. A refcount has `2^order` bits.
pub(super) fn higher(one: &[u8], other: &[u8], order: u32) -> Vec<u8> {
    match order {
        0..3 => one.iter().zip(other).map(|(&one, &other)| higher_in(one, other, order)).collect(),
        _ => {
            let width = 1 << (order - 3);
            // Big endian: their order is that of the numbers.
            let pairs = one.chunks(width).zip(other.chunks(width));
            pairs.flat_map(|(one, other)| one.max(other)).copied().collect()
        }
    }
}

fn higher_in(one: u8, other: u8, order: u32) -> u8 {
    let width = 1 << order;
    let mask = (1_u8 << width) - 1;
    (0..8)
        .step_by(width)
        .map(|shift| ((one >> shift) & mask).max((other >> shift) & mask) << shift)
        .sum()
}

/// The refcount with this index.
pub(super) fn nth(block: &[u8], index: usize, order: u32) -> u64 {
    match order {
        0..3 => {
            let bit = index << order;
            let mask = (1_u8 << (1 << order)) - 1;
            block.get(bit / 8).map_or(0, |byte| ((byte >> (bit % 8)) & mask).into())
        }
        _ => {
            let width = 1 << (order - 3);
            let bytes = block.get(index * width..).and_then(|rest| rest.get(..width));
            bytes.unwrap_or(&[]).iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
        }
    }
}

/// Makes the refcount with this index smaller, but not less than 0.
pub(super) fn lower(block: &mut [u8], index: usize, order: u32, by: u64) {
    let count = nth(block, index, order).saturating_sub(by);
    match order {
        0..3 => {
            let bit = index << order;
            let mask = (1_u8 << (1 << order)) - 1;
            if let Some(byte) = block.get_mut(bit / 8) {
                *byte = *byte & !(mask << (bit % 8)) | (count as u8) << (bit % 8);
            }
        }
        _ => {
            let width = 1 << (order - 3);
            let place = block.get_mut(index * width..).and_then(|rest| rest.get_mut(..width));
            if let Some(place) = place {
                place.copy_from_slice(&count.to_be_bytes()[8 - width..]);
            }
        }
    }
}

/// Which refcounts are 0 in `new`, and are not in `old`, of those in the bytes of a range.
pub(super) fn freed(
    old: &[u8],
    new: &[u8],
    bytes: Range<usize>,
    order: u32,
) -> impl Iterator<Item = usize> {
    ((bytes.start << 3) >> order..(bytes.end << 3) >> order)
        .filter(move |&index| nth(new, index, order) == 0 && nth(old, index, order) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refcount_is_the_higher_one() {
        assert_eq!(higher(&[0b0101_0000], &[0b0011_0001], 0), [0b0111_0001]);
        assert_eq!(higher(&[0b11_00_01_10], &[0b01_00_10_11], 1), [0b11_00_10_11]);
        assert_eq!(higher(&[0x1f, 0x20], &[0xf1, 0x13], 2), [0xff, 0x23]);
        assert_eq!(higher(&[1, 9], &[2, 3], 3), [2, 9]);
        assert_eq!(higher(&[1, 0, 0, 9], &[0, 255, 1, 0], 4), [1, 0, 1, 0]);
        let (one, other) = ([0, 0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0, 255]);
        assert_eq!(higher(&one, &other, 6), one);
    }

    #[test]
    fn a_refcount_is_lowered_and_no_other() {
        for order in 0..=6 {
            let mut block = vec![0xff; 64];
            let last = (64 << 3 >> order) - 1;
            let most = nth(&block, 1, order);
            lower(&mut block, 1, order, 1);
            assert_eq!(nth(&block, 1, order), most - 1);
            assert!([0, 2, last].iter().all(|&index| nth(&block, index, order) == most));
            lower(&mut block, last, order, u64::MAX);
            assert_eq!((nth(&block, last, order), nth(&block, last - 1, order)), (0, most));
            let freed: Vec<_> = freed(&[0xff; 64], &block, 0..64, order).collect();
            assert_eq!(freed, if order == 0 { vec![1, last] } else { vec![last] });
            lower(&mut block, 1 << 20, order, 1);
        }
    }

    #[test]
    fn a_refcount_is_found_by_its_index() {
        assert_eq!([0, 1, 2, 7].map(|index| nth(&[0b1000_0010], index, 0)), [0, 1, 0, 1]);
        assert_eq!([0, 1, 3].map(|index| nth(&[0b11_00_01_10], index, 1)), [2, 1, 3]);
        assert_eq!([0, 1, 2].map(|index| nth(&[0, 7, 1, 0], index, 4)), [7, 256, 0]);
        assert_eq!(nth(&[0, 0, 0, 0, 0, 0, 1, 2], 0, 6), 258);
    }
}
