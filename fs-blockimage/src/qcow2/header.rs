//! The header of a qcow2 image, checked (`docs/interop/qcow2.txt` of QEMU).

use std::{io, ops::Range};

use crate::storage::HostFile;

pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Where its fields are.
pub(super) const BACKING: Range<usize> = 8..20;
pub(super) const SIZE: Range<usize> = 24..32;
pub(super) const L1: Range<usize> = 36..48;
pub(super) const REFTABLE: Range<usize> = 48..60;
pub(super) const AUTOCLEAR: Range<usize> = 88..96;
pub(super) const LEN: Range<usize> = 100..104;

pub(super) const V2_LEN: usize = 72;
pub(super) const V3_LEN: usize = 104;
/// The most entries of the L1 table, and here of the refcount table: QEMU's limit.
pub(super) const ENTRIES_MAX: u64 = 4 << 20;
/// No host offset is larger.
const OFFSET_MAX: u64 = 1 << 56;
const NAME_MAX: u32 = 1023;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const DATA_FILE: u32 = 0x4441_5441;

/// Bytes of one name in the table of feature names.
const FEATURE_NAME: usize = 48;

/// A table in the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Table {
    /// Where it begins, at a cluster.
    pub(crate) offset: u64,
    /// Of 8 bytes each.
    pub(crate) entries: u64,
}

impl Table {
    pub(crate) fn contains(self, offset: u64) -> bool {
        (self.offset..self.offset + self.entries * 8).contains(&offset)
    }
}

/// What the header of an image says, within the bounds of the format.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    pub(crate) refcount_order: u32,
    /// Bytes that a client sees.
    pub(crate) size: u64,
    pub(crate) l1: Table,
    pub(crate) reftable: Table,
    pub(crate) autoclear: u64,
    pub(crate) backing: Option<String>,
    pub(crate) backing_format: Option<String>,
    /// Whether data is in a file of its own, and its name where the image has one.
    pub(crate) data_file: Option<Option<String>>,
}

/// Why an image is not used: the end of a sentence.
pub(crate) type Unusable = String;

impl Header {
    /// Reads it.
    ///
    /// # Errors
    /// What the host said.
    pub(crate) async fn read(file: &HostFile) -> io::Result<Result<Self, Unusable>> {
        let first = file.read_bytes(0, V3_LEN).await?;
        let bits = match bits_of(&first) {
            Ok(bits) => bits,
            Err(why) => return Ok(Err(why)),
        };
        Ok(Self::parse(&file.read_padded(0, 1 << bits).await?))
    }

    /// Parses the first cluster of an image.
    pub(crate) fn parse(cluster: &[u8]) -> Result<Self, Unusable> {
        let cluster_bits = bits_of(cluster)?;
        let version = u32_at(cluster, 4);
        check_features(cluster, version)?;
        let v3 = version >= 3;
        let refcount_order = if v3 { u32_at(cluster, 96) } else { 4 };
        if refcount_order > 6 {
            return Err(format!("its refcounts have 2^{refcount_order} bits, and 64 is the most"));
        }
        let (l1, reftable) = tables(cluster, cluster_bits);
        check_table("L1 table", l1, cluster_bits)?;
        check_table("refcount table", reftable, cluster_bits)?;
        let mut header = Self {
            version,
            cluster_bits,
            refcount_order,
            size: u64_at(cluster, SIZE.start),
            l1,
            reftable,
            autoclear: if v3 { u64_at(cluster, AUTOCLEAR.start) } else { 0 },
            backing: backing_of(cluster)?,
            backing_format: None,
            data_file: (v3 && u64_at(cluster, 72) & EXTERNAL != 0).then_some(None),
        };
        if header.size > header.cover() {
            return Err("its L1 table is too small for its size".into());
        }
        header.parse_extensions(cluster)?;
        Ok(header)
    }

    /// Bytes that clients could see with this L1 table.
    pub(crate) fn cover(&self) -> u64 {
        cover(self.l1.entries, self.cluster_bits)
    }

    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// How many clusters a block of refcounts is for, as a power of two.
    pub(super) fn refblock_bits(&self) -> u32 {
        self.cluster_bits + 3 - self.refcount_order
    }

    fn parse_extensions(&mut self, cluster: &[u8]) -> Result<(), Unusable> {
        const OUTSIDE: &str = "its header extensions leave the first cluster";
        let mut at = if self.version >= 3 { u32_at(cluster, 100) as usize } else { V2_LEN };
        let names_begin = match u64_at(cluster, 8) {
            0 => cluster.len(),
            offset => usize::try_from(offset).map_or(cluster.len(), |at| at.min(cluster.len())),
        };
        // In version 2 the list may end where the backing file's name begins.
        while at + 8 <= if self.version >= 3 { cluster.len() } else { names_begin } {
            let (kind, len) = (u32_at(cluster, at), u32_at(cluster, at + 4) as usize);
            at += 8;
            let data = cluster.get(at..).and_then(|rest| rest.get(..len)).ok_or(OUTSIDE)?;
            match kind {
                END => return Ok(()),
                BACKING_FORMAT => self.backing_format = Some(text(data, "backing format")?),
                DATA_FILE if self.data_file.is_some() => {
                    self.data_file = Some(Some(text(data, "data file")?));
                }
                FEATURE_NAMES if !len.is_multiple_of(FEATURE_NAME) => {
                    return Err("its table of feature names is cut off".into());
                }
                _ => {}
            }
            at += len.next_multiple_of(8);
        }
        if self.version >= 3 { Err(OUTSIDE.into()) } else { Ok(()) }
    }
}

/// The L1 and the refcount table, by the part of the header that is the same in all versions.
pub(super) fn tables(header: &[u8], cluster_bits: u32) -> (Table, Table) {
    let l1 = Table { offset: u64_at(header, 40), entries: u32_at(header, 36).into() };
    let per_cluster = 1 << (cluster_bits - 3);
    let reftable = Table {
        offset: u64_at(header, REFTABLE.start),
        entries: u64::from(u32_at(header, 56)) * per_cluster,
    };
    (l1, reftable)
}

/// Bytes that clients could see with an L1 table of so many entries.
pub(super) fn cover(entries: u64, cluster_bits: u32) -> u64 {
    // At most 2^22 entries, and 2^39 bytes each.
    entries << (2 * cluster_bits - 3)
}

/// The size of clusters, when it is a qcow2 image at all.
fn bits_of(cluster: &[u8]) -> Result<u32, Unusable> {
    if cluster.len() < V3_LEN || cluster[..4] != MAGIC {
        return Err("it has no qcow2 header; say its format with --format".into());
    }
    match u32_at(cluster, 4) {
        2 | 3 => {}
        version => return Err(format!("it is of version {version}, and 2 and 3 are supported")),
    }
    match u32_at(cluster, 20) {
        bits @ 9..=21 => Ok(bits),
        bits => Err(format!("its clusters have 2^{bits} bytes, and 512 bytes to 2 MiB are valid")),
    }
}

fn check_features(cluster: &[u8], version: u32) -> Result<(), Unusable> {
    if u32_at(cluster, 32) != 0 {
        return Err("it is encrypted; decrypt it with `qemu-img convert`".into());
    }
    if version < 3 {
        return Ok(());
    }
    let len = u32_at(cluster, 100) as usize;
    if len < V3_LEN || len > cluster.len() || !len.is_multiple_of(8) {
        return Err(format!("its header has {len} bytes, which is not valid"));
    }
    let features = u64_at(cluster, 72);
    let why = match features & !EXTERNAL {
        0 => return Ok(()),
        set if set & CORRUPT != 0 => {
            "it is marked as corrupt; repair it with `qemu-img check -r all`"
        }
        set if set & DIRTY != 0 => {
            "it was not closed, and its refcounts may be wrong; repair it with `qemu-img check -r all`"
        }
        set if set & COMPRESSION != 0 => {
            "its compression is another than zlib; convert it with `qemu-img convert -o compression_type=zlib`"
        }
        set if set & EXTENDED_L2 != 0 => {
            "it has extended L2 entries; convert it with `qemu-img convert -o extended_l2=off`"
        }
        set => return Err(format!("it has unknown incompatible features ({set:#x})")),
    };
    Err(why.into())
}

fn check_table(what: &str, table: Table, cluster_bits: u32) -> Result<(), Unusable> {
    if table.entries > ENTRIES_MAX {
        return Err(format!(
            "its {what} has {} entries, and {ENTRIES_MAX} is the most",
            table.entries
        ));
    }
    if !table.offset.is_multiple_of(1 << cluster_bits)
        || table.offset > OFFSET_MAX - table.entries * 8
    {
        return Err(format!("its {what} is at {:#x}, which is not valid", table.offset));
    }
    Ok(())
}

fn backing_of(cluster: &[u8]) -> Result<Option<String>, Unusable> {
    let (offset, len) = (u64_at(cluster, 8), u32_at(cluster, 16));
    if offset == 0 {
        return Ok(None);
    }
    let name = usize::try_from(offset)
        .ok()
        .filter(|_| len <= NAME_MAX)
        .and_then(|offset| cluster.get(offset..)?.get(..len as usize))
        .ok_or("the name of its backing file is outside of the header")?;
    text(name, "backing file").map(Some)
}

fn text(bytes: &[u8], what: &str) -> Result<String, Unusable> {
    match str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(format!("the name of its {what} is not valid")),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
