//! What arbitrary bytes mean: an image that is wrong in some places, and what a client does with it.

use fsrv_blockimage::Zeroing;

use crate::{
    image::{self, Image},
    script::Op,
};

/// The most of each.
const CHANGES_MAX: u8 = 12;
const OPS_MAX: u8 = 16;

/// The longest transfer.
const LEN_MAX: usize = 256 << 10;
/// What may be allocated, or zeroed by writing: it takes space.
const SPACE_MAX: u64 = 8 << 20;

/// An image and requests.
pub(crate) struct Input {
    pub(crate) image: Vec<u8>,
    pub(crate) ops: Vec<Op>,
}

impl Input {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut rest = Rest(bytes);
        let bits = match rest.byte() % 32 {
            0..12 => 9,
            12..22 => 12,
            22..31 => 16,
            // Takes longest.
            _ => 21,
        };
        let mut image = Image::with_refcounts(bits, u32::from(rest.byte() % 7));
        for _ in 0..rest.byte() % (CHANGES_MAX + 1) {
            rest.change(&mut image);
        }
        if rest.byte().is_multiple_of(8) {
            let len = rest.bytes(3) as usize % image.bytes.len();
            image.bytes.truncate(len);
        }
        let ops = (0..rest.byte() % (OPS_MAX + 1)).map(|_| rest.op(bits)).collect();
        Self { image: image.bytes, ops }
    }
}

/// The bytes that have no meaning yet; behind them are zeroes.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn bytes(&mut self, count: usize) -> u64 {
        (0..count).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// A number that is near to something.
    fn number(&mut self, bits: u32) -> u64 {
        let small = u64::from(self.byte());
        match self.byte() % 8 {
            0 => small,
            1 => small << bits,
            2 => (small << bits) + self.bytes(2),
            3 => 1_u64.checked_shl(u32::from(self.byte())).unwrap_or(0).wrapping_add(small),
            4 => 1_u64.checked_shl(u32::from(self.byte())).unwrap_or(0).wrapping_sub(small << bits),
            5 => self.bytes(8),
            6 => u64::MAX - small,
            _ => small << (bits * 2 - 3),
        }
    }

    /// An entry of a table.
    fn entry(&mut self, image: &Image) -> u64 {
        let flags = self.byte();
        let target = self.number(image.cluster_bits);
        match flags % 8 {
            0 => target,
            1 => target | 1,
            2 | 3 => target & !(1 << 62) | image::COPIED,
            4 => target | image::COPIED | 1,
            5 => image.compressed_entry(target & ((1 << 50) - 1), u64::from(self.byte() % 128)),
            // Clusters of the image itself.
            _ => (u64::from(self.byte() % 10) << image.cluster_bits) | image::COPIED,
        }
    }

    fn change(&mut self, image: &mut Image) {
        const FIELDS: [(usize, bool); 16] = [
            (image::VERSION, false),
            (image::BACKING_OFFSET, true),
            (image::BACKING_LEN, false),
            (image::CLUSTER_BITS, false),
            (image::SIZE, true),
            (image::CRYPT, false),
            (image::L1_ENTRIES, false),
            (image::L1_OFFSET, true),
            (image::REFTABLE_OFFSET, true),
            (image::REFTABLE_CLUSTERS, false),
            (image::SNAPSHOTS, false),
            (image::SNAPSHOTS_OFFSET, true),
            (image::INCOMPATIBLE, true),
            (image::AUTOCLEAR, true),
            (image::REFCOUNT_ORDER, false),
            (image::HEADER_LEN, false),
        ];
        let kind = self.byte() % 10;
        let index = usize::from(self.byte());
        let in_table = index % (image.cluster() / 8);
        match kind {
            0 => {
                let (field, is_long) = FIELDS[index % FIELDS.len()];
                let value = self.number(image.cluster_bits);
                if is_long { image.put64(field, value) } else { image.put32(field, value as u32) }
            }
            1 => {
                let entry = self.entry(image);
                image.l1(in_table % 8, entry);
                image.put32(image::L1_ENTRIES, 1 + in_table as u32 % 8);
            }
            2 if index.is_multiple_of(4) => self.keep(image),
            2..4 => {
                let entry = self.entry(image);
                image.l2(in_table, entry);
            }
            4 => {
                let entry = self.entry(image) & !image::COPIED;
                image.reftable(in_table % 8, entry);
            }
            5 => {
                let at = image.at(image::REFBLOCK) + in_table;
                let (value, count) = (self.byte(), usize::from(self.byte()));
                let end = (at + count + 1).min(image.at(image::REFBLOCK + 1));
                image.bytes[at..end].fill(value);
            }
            6 => {
                let at = image.at(image::COMPRESSED) + index % 128;
                (at..at + 8).for_each(|at| image.bytes[at] = self.byte());
            }
            7 => {
                let kinds = [
                    image::FEATURE_NAMES,
                    image::BACKING_FORMAT,
                    image::DATA_FILE,
                    image::BITMAPS,
                    7,
                ];
                let data: Vec<u8> = (0..index % 64).map(|_| self.byte()).collect();
                if image.room() > data.len() + 16 {
                    image.extend(kinds[index % kinds.len()], &data);
                }
            }
            8 => {
                // The fields of the tables must stay there to be changed.
                let least = image.at(image::COMPRESSED + 1);
                image.bytes.resize(least + (index << 9).min(1 << 16), self.byte());
            }
            _ => {
                let at = self.bytes(3) as usize % image.bytes.len();
                image.bytes[at] = self.byte();
            }
        }
    }

    /// Gives the image a snapshot or a bitmap, in its own clusters.
    fn keep(&mut self, image: &mut Image) {
        let cluster = |number: u8| u64::from(number % 10) << image.cluster_bits;
        let (table, below) = (cluster(self.byte()), cluster(self.byte()));
        if self.byte().is_multiple_of(2) {
            image.put32(image::SNAPSHOTS, 1 + u32::from(self.byte() % 3));
            image.put64(image::SNAPSHOTS_OFFSET, table);
        } else if image.room() > 64 {
            let mut extension = [0; 24];
            extension[3] = self.byte() % 3;
            extension[15] = self.byte();
            extension[16..].copy_from_slice(&table.to_be_bytes());
            image.extend(image::BITMAPS, &extension);
            image.put64(image::AUTOCLEAR, 1);
        }
        let at = table as usize;
        if at + 64 <= image.bytes.len() && at > 0 {
            image.put64(at, below);
            image.put32(at + 8, 1 + u32::from(self.byte() % 3));
            (at + 12..at + 48).for_each(|at| image.bytes[at] = self.byte() % 3);
        }
    }

    fn op(&mut self, bits: u32) -> Op {
        let kind = self.byte();
        let at = self.number(bits);
        let len = (self.bytes(3) as usize) % LEN_MAX;
        match kind % 12 {
            0..3 => Op::Read { at, len },
            3..6 => Op::Write { at, len },
            6 => Op::Zero { at, len: self.number(bits), how: Zeroing::Free },
            7 => Op::Zero { at, len: len as u64, how: Zeroing::Keep },
            8 if kind < 128 => Op::Allocate(at % SPACE_MAX),
            8 => Op::SetLen(at),
            9 => Op::Flush,
            10 => Op::NextData(at),
            _ => Op::NextHole(at),
        }
    }
}
