//! Choices made by a seed.

/// A generator of pseudo-random numbers (splitmix64).
#[derive(Clone)]
pub(crate) struct Seed(u64);

impl Seed {
    /// The generator of the `index`-th part of what `seed` makes.
    pub(crate) fn part(seed: u64, index: u64) -> Self {
        let mut whole = Self(seed ^ index.wrapping_mul(0xd134_2543_de82_ef95));
        Self(whole.number())
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }

    /// True in `percent` of 100 cases.
    pub(crate) fn in_percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A length from 1 to `most`, small ones as likely as large ones.
    pub(crate) fn len(&mut self, most: u64) -> u64 {
        let bits = self.below(u64::from(most.ilog2()) + 1);
        (1 + self.below(2 << bits)).min(most)
    }

    /// Bytes that are found nowhere else, none of them zero.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend((self.number() | 0x0101_0101_0101_0101).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
