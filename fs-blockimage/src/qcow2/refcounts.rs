//! Blocks of refcounts.

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
    fn a_refcount_is_found_by_its_index() {
        assert_eq!([0, 1, 2, 7].map(|index| nth(&[0b1000_0010], index, 0)), [0, 1, 0, 1]);
        assert_eq!([0, 1, 3].map(|index| nth(&[0b11_00_01_10], index, 1)), [2, 1, 3]);
        assert_eq!([0, 1, 2].map(|index| nth(&[0, 7, 1, 0], index, 4)), [7, 256, 0]);
        assert_eq!(nth(&[0, 0, 0, 0, 0, 0, 1, 2], 0, 6), 258);
    }
}
