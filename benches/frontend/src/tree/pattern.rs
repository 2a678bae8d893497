//! Bytes that follow from a file's number and their offset.

/// The content of one file.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    seed: u64,
}

impl Pattern {
    /// Of the file with this number.
    pub fn new(number: u64) -> Self {
        Pattern { seed: mix(number ^ 0x5eed) }
    }

    /// The bytes from `offset` on.
    pub fn fill(&self, offset: u64, bytes: &mut [u8]) {
        let (skip, mut word) = ((offset % 8) as usize, offset / 8);
        let (head, rest) = bytes.split_at_mut(((8 - skip) % 8).min(bytes.len()));
        if !head.is_empty() {
            let first = self.word(word);
            head.copy_from_slice(&first[skip..skip + head.len()]);
            word += 1;
        }
        for chunk in rest.chunks_mut(8) {
            chunk.copy_from_slice(&self.word(word)[..chunk.len()]);
            word += 1;
        }
    }

    /// The offset of the first byte that is another.
    pub fn mismatch(&self, offset: u64, bytes: &[u8]) -> Option<u64> {
        const PIECE: usize = 4096;
        let mut expected = [0; PIECE];
        for (at, piece) in bytes.chunks(PIECE).enumerate() {
            let start = offset + (at * PIECE) as u64;
            let expected = &mut expected[..piece.len()];
            self.fill(start, expected);
            if expected != piece {
                let place = expected.iter().zip(piece).position(|(a, b)| a != b);
                return place.map(|place| start + place as u64);
            }
        }
        None
    }

    fn word(&self, index: u64) -> [u8; 8] {
        mix(self.seed.wrapping_add(index)).to_le_bytes()
    }
}

/// The finalizer of SplitMix64: neighbours look unlike.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_is_the_same_as_in_the_whole() {
        let pattern = Pattern::new(7);
        let mut whole = vec![0; 9000];
        pattern.fill(0, &mut whole);
        for (start, end) in [(0, 3), (1, 4), (5, 21), (8, 16), (4093, 8999), (15, 15)] {
            let mut part = vec![0; end - start];
            pattern.fill(start as u64, &mut part);
            assert_eq!(part, whole[start..end]);
            assert_eq!(pattern.mismatch(start as u64, &part), None);
        }
    }

    #[test]
    fn a_wrong_byte_is_found_where_it_is() {
        let pattern = Pattern::new(1);
        let mut bytes = vec![0; 10_000];
        pattern.fill(3, &mut bytes);
        bytes[5000] ^= 1;
        assert_eq!(pattern.mismatch(3, &bytes), Some(5003));
    }

    #[test]
    fn files_differ() {
        let mut bytes = [0; 64];
        Pattern::new(1).fill(0, &mut bytes);
        assert_eq!(Pattern::new(2).mismatch(0, &bytes), Some(0));
    }
}
