//! The header of a qcow2 image, checked (`docs/interop/qcow2.txt` of QEMU).

use std::{io, ops::Range};

use super::features;
use crate::storage::HostFile;

pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Where its fields are.
pub(super) const BACKING: Range<usize> = 8..20;
pub(super) const SIZE: Range<usize> = 24..32;
pub(super) const L1: Range<usize> = 36..48;
pub(super) const REFTABLE: Range<usize> = 48..60;
const SNAPSHOTS: usize = 60;
const INCOMPATIBLE: usize = 72;
/// The lowest byte of those.
pub(super) const DAMAGE: usize = INCOMPATIBLE + 7;
pub(super) const AUTOCLEAR: Range<usize> = 88..96;
pub(super) const LEN: Range<usize> = 100..104;

pub(super) const V2_LEN: usize = 72;
pub(super) const V3_LEN: usize = 104;
/// The most entries of the L1 table, and here of the refcount table: QEMU's limit.
pub(super) const ENTRIES_MAX: u64 = 4 << 20;
/// No host offset is larger.
const OFFSET_MAX: u64 = 1 << 56;
const NAME_MAX: u32 = 1023;

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const DATA_FILE: u32 = 0x4441_5441;
const BITMAPS: u32 = 0x2385_2875;
const ENCRYPTION: u32 = 0x0537_be77;

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
    /// Why it is only to be read.
    pub(super) damage: Option<&'static str>,
    /// How many snapshots there are, and where their table begins.
    pub(super) snapshots: (u32, u64),
    /// The extension about bitmaps, as it is.
    pub(super) bitmaps: Option<Vec<u8>>,
    pub(crate) backing: Option<Vec<u8>>,
    pub(crate) backing_format: Option<Vec<u8>>,
    /// Whether data is in a file of its own, and its name where the image has one.
    pub(crate) data_file: Option<Option<Vec<u8>>>,
}

/// Why an image is not used: the end of a sentence.
pub(crate) type Unusable = String;

/// Why an image is not opened.
#[derive(Debug)]
pub(super) enum Fault {
    /// What the host said.
    Host(io::Error),
    /// What is wrong with the image.
    Image(Unusable),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

impl From<Unusable> for Fault {
    fn from(why: Unusable) -> Self {
        Self::Image(why)
    }
}

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
        if u32_at(cluster, 32) != 0 {
            return Err("it is encrypted; decrypt it with `qemu-img convert`".into());
        }
        let v3 = version >= 3;
        let incompatible = if v3 { u64_at(cluster, INCOMPATIBLE) } else { 0 };
        features::check(incompatible)?;
        if v3 {
            check_fields(cluster)?;
        }
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
            damage: features::damage(incompatible),
            snapshots: (u32_at(cluster, SNAPSHOTS), u64_at(cluster, SNAPSHOTS + 4)),
            bitmaps: None,
            backing: backing_of(cluster)?,
            backing_format: None,
            data_file: (incompatible & features::EXTERNAL != 0).then_some(None),
        };
        if header.size > header.cover() {
            return Err("its L1 table is too small for its size".into());
        }
        header.parse_extensions(cluster)?;
        features::check_together(&header)?;
        Ok(header)
    }

    /// Bytes that clients could see with this L1 table.
    pub(crate) fn cover(&self) -> u64 {
        cover(self.l1.entries, self.cluster_bits)
    }

    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Whether the file of the data reads as the content does.
    pub(super) fn data_is_raw(&self) -> bool {
        self.autoclear & features::DATA_FILE_RAW != 0
    }

    /// The bitmaps, where what is said of them holds.
    pub(super) fn valid_bitmaps(&self) -> Option<&[u8]> {
        let holds = self.autoclear & features::BITMAPS != 0;
        self.bitmaps.as_deref().filter(|_| holds)
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
                BITMAPS => self.bitmaps = Some(data.to_owned()),
                ENCRYPTION => {
                    return Err("it has the header of an encryption, and is not encrypted".into());
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

/// The fields that version 2 does not have.
fn check_fields(cluster: &[u8]) -> Result<(), Unusable> {
    let len = u32_at(cluster, LEN.start) as usize;
    if len < V3_LEN || len > cluster.len() || !len.is_multiple_of(8) {
        return Err(format!("its header has {len} bytes, which is not valid"));
    }
    // Of no meaning without the feature that `features` refuses.
    if len > V3_LEN && cluster[V3_LEN] != 0 {
        return Err("its type of compression contradicts its features".into());
    }
    Ok(())
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

fn backing_of(cluster: &[u8]) -> Result<Option<Vec<u8>>, Unusable> {
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

/// A name is any bytes that the host takes.
fn text(bytes: &[u8], what: &str) -> Result<Vec<u8>, Unusable> {
    if bytes.contains(&0) {
        return Err(format!("the name of its {what} is not valid"));
    }
    Ok(bytes.to_owned())
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
