//! A small qcow2 image, byte for byte, to be made wrong.

/// Where the fields of the header are.
pub(crate) const VERSION: usize = 4;
pub(crate) const BACKING_OFFSET: usize = 8;
pub(crate) const BACKING_LEN: usize = 16;
pub(crate) const CLUSTER_BITS: usize = 20;
pub(crate) const SIZE: usize = 24;
pub(crate) const CRYPT: usize = 32;
pub(crate) const L1_ENTRIES: usize = 36;
pub(crate) const L1_OFFSET: usize = 40;
pub(crate) const REFTABLE_OFFSET: usize = 48;
pub(crate) const REFTABLE_CLUSTERS: usize = 56;
pub(crate) const SNAPSHOTS: usize = 60;
pub(crate) const SNAPSHOTS_OFFSET: usize = 64;
pub(crate) const INCOMPATIBLE: usize = 72;
pub(crate) const AUTOCLEAR: usize = 88;
pub(crate) const REFCOUNT_ORDER: usize = 96;
pub(crate) const HEADER_LEN: usize = 100;
/// Behind the header, where its extensions begin.
pub(crate) const EXTENSIONS: usize = 104;

/// Kinds of extensions.
pub(crate) const BACKING_FORMAT: u32 = 0xe279_2aca;
pub(crate) const FEATURE_NAMES: u32 = 0x6803_f857;
pub(crate) const DATA_FILE: u32 = 0x4441_5441;
pub(crate) const BITMAPS: u32 = 0x2385_2875;

/// Which cluster is what.
pub(crate) const REFTABLE: u64 = 1;
pub(crate) const REFBLOCK: u64 = 2;
pub(crate) const L1: u64 = 3;
pub(crate) const L2: u64 = 4;
pub(crate) const DATA: u64 = 5;
pub(crate) const COMPRESSED: u64 = 6;
const CLUSTERS: u64 = 7;

/// Flags of entries.
pub(crate) const COPIED: u64 = 1 << 63;
pub(crate) const IS_COMPRESSED: u64 = 1 << 62;
const IS_ZERO: u64 = 1;

/// Clusters that a client sees: data, compressed data, zeroes, and then nothing.
pub(crate) const GUEST_CLUSTERS: u64 = 24;

/// What the bytes of the first two clusters are.
pub(crate) const DATA_BYTE: u8 = 0xda;
pub(crate) const COMPRESSED_BYTE: u8 = 0xc0;

/// The image, in which all is right.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    pub(crate) cluster_bits: u32,
    refcount_order: u32,
    extensions: usize,
}

impl Image {
    pub(crate) fn new(cluster_bits: u32) -> Self {
        Self::with_refcounts(cluster_bits, 4)
    }

    /// The same with refcounts of `2^order` bits.
    pub(crate) fn with_refcounts(cluster_bits: u32, order: u32) -> Self {
        let bytes = vec![0; (CLUSTERS << cluster_bits) as usize];
        let mut image = Self { bytes, cluster_bits, refcount_order: order, extensions: EXTENSIONS };
        image.bytes[..4].copy_from_slice(b"QFI\xfb");
        image.put32(VERSION, 3);
        image.put32(CLUSTER_BITS, cluster_bits);
        image.put64(SIZE, GUEST_CLUSTERS << cluster_bits);
        image.put32(L1_ENTRIES, 1);
        image.put64(L1_OFFSET, L1 << cluster_bits);
        image.put64(REFTABLE_OFFSET, REFTABLE << cluster_bits);
        image.put32(REFTABLE_CLUSTERS, 1);
        image.put32(REFCOUNT_ORDER, order);
        image.put32(HEADER_LEN, EXTENSIONS as u32);
        image.reftable(0, REFBLOCK << cluster_bits);
        image.l1(0, (L2 << cluster_bits) | COPIED);
        (0..CLUSTERS).for_each(|cluster| image.count_one(cluster));
        image.l2(0, (DATA << cluster_bits) | COPIED);
        let data = image.at(DATA)..image.at(COMPRESSED);
        image.bytes[data].fill(DATA_BYTE);
        image.compress(1, &repeated(COMPRESSED_BYTE, 1 << cluster_bits));
        image.l2(2, IS_ZERO);
        image
    }

    /// Where a cluster is.
    pub(crate) fn at(&self, cluster: u64) -> usize {
        (cluster << self.cluster_bits) as usize
    }

    /// Bytes of a cluster.
    pub(crate) fn cluster(&self) -> usize {
        1 << self.cluster_bits
    }

    pub(crate) fn put32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn put64(&mut self, at: usize, value: u64) {
        self.bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn reftable(&mut self, index: usize, entry: u64) {
        self.put64(self.at(REFTABLE) + 8 * index, entry);
    }

    pub(crate) fn l1(&mut self, index: usize, entry: u64) {
        self.put64(self.at(L1) + 8 * index, entry);
    }

    pub(crate) fn l2(&mut self, index: usize, entry: u64) {
        self.put64(self.at(L2) + 8 * index, entry);
    }

    /// Gives a guest's cluster compressed data, in a cluster of its own.
    pub(crate) fn compress(&mut self, index: usize, data: &[u8]) {
        let at = self.at(COMPRESSED);
        self.bytes[at..at + data.len()].copy_from_slice(data);
        self.l2(index, self.compressed_entry(at as u64, data.len().div_ceil(512) as u64 - 1));
    }

    /// The entry for compressed data that goes on for `sectors` behind its first one.
    pub(crate) fn compressed_entry(&self, at: u64, sectors: u64) -> u64 {
        IS_COMPRESSED | sectors << (62 - (self.cluster_bits - 8)) | at
    }

    /// Makes a refcount 1.
    pub(crate) fn count_one(&mut self, cluster: u64) {
        let (block, order) = (self.at(REFBLOCK), self.refcount_order);
        match order {
            0..3 => {
                let bit = (cluster << order) as usize;
                self.bytes[block + bit / 8] |= 1 << (bit % 8);
            }
            _ => {
                let width = 1 << (order - 3);
                self.bytes[block + (cluster as usize + 1) * width - 1] = 1;
            }
        }
    }

    /// Adds an extension to the header.
    pub(crate) fn extend(&mut self, kind: u32, data: &[u8]) {
        let at = self.extensions;
        self.put32(at, kind);
        self.put32(at + 4, data.len() as u32);
        self.bytes[at + 8..at + 8 + data.len()].copy_from_slice(data);
        self.extensions = (at + 8 + data.len()).next_multiple_of(8);
    }

    /// Bytes that are left for extensions.
    pub(crate) fn room(&self) -> usize {
        self.cluster() - self.extensions
    }

    /// Names a backing file.
    pub(crate) fn back(&mut self, name: &str, format: Option<&str>) {
        if let Some(format) = format {
            self.extend(BACKING_FORMAT, format.as_bytes());
        }
        // Not up to the end of the cluster: imago takes that for behind it.
        let at = self.cluster() - name.len() - 8;
        self.bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
        self.put64(BACKING_OFFSET, at as u64);
        self.put32(BACKING_LEN, name.len() as u32);
    }
}

/// Bits of a deflated stream, with the codes that are fixed (RFC 1951).
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    count: usize,
}

impl Bits {
    /// Begins the only block.
    fn new() -> Self {
        let mut bits = Self::default();
        bits.number(0b011, 3);
        bits
    }

    fn bit(&mut self, bit: u32) {
        if self.count.is_multiple_of(8) {
            self.bytes.push(0);
        }
        self.bytes[self.count / 8] |= (bit as u8) << (self.count % 8);
        self.count += 1;
    }

    fn number(&mut self, number: u32, bits: u32) {
        (0..bits).for_each(|nth| self.bit(number >> nth & 1));
    }

    fn code(&mut self, code: u32, bits: u32) {
        (0..bits).rev().for_each(|nth| self.bit(code >> nth & 1));
    }

    fn literal(&mut self, byte: u8) {
        match u32::from(byte) {
            low @ 0..144 => self.code(0x30 + low, 8),
            high => self.code(0x190 + high - 144, 9),
        }
    }

    /// 258 bytes as they are `distance` before; `extra` is the number of bits that go with that code.
    fn longest(&mut self, distance: u32, more: u32, extra: u32) {
        self.code(0xc5, 8);
        self.code(distance, 5);
        self.number(more, extra);
    }

    fn end(mut self) -> Vec<u8> {
        self.code(0, 7);
        self.bytes
    }
}

/// So many times the byte, deflated.
pub(crate) fn repeated(byte: u8, len: usize) -> Vec<u8> {
    let mut bits = Bits::new();
    bits.literal(byte);
    let mut done = 1;
    while done < len {
        if len - done >= 258 {
            bits.longest(0, 0, 0);
            done += 258;
        } else {
            bits.literal(byte);
            done += 1;
        }
    }
    bits.end()
}

/// A deflated stream that copies what was before its own beginning: there is nothing.
pub(crate) fn before_the_beginning(len: usize) -> Vec<u8> {
    let mut bits = Bits::new();
    let mut done = 0;
    // As far back as the smallest of the clusters allows: 257 to 384 bytes, or 32 KiB.
    let (code, more, extra) = if len < 1 << 15 { (16, 127, 7) } else { (29, 8191, 13) };
    while done + 258 <= len {
        bits.longest(code, more, extra);
        done += 258;
    }
    (done..len).for_each(|_| bits.literal(0));
    bits.end()
}
