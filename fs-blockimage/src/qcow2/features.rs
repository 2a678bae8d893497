//! What the header says that an image has: understood, kept, refused, or dropped (the table in `docs/blockimage.md`).

use super::{
    header::{Header, Unusable},
    ownership::REPAIR,
};

/// Bits of the incompatible features.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
pub(super) const EXTERNAL: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// Those that only say that something may be wrong.
pub(super) const DAMAGE: u8 = 3;

/// Bits of the autoclear features: what they say does not hold any more when somebody who does not know them writes.
pub(super) const BITMAPS: u64 = 1;
pub(super) const DATA_FILE_RAW: u64 = 1 << 1;

/// Refuses what cannot even be read.
pub(super) fn check(incompatible: u64) -> Result<(), Unusable> {
    let why = match incompatible & !(EXTERNAL | DIRTY | CORRUPT) {
        0 => return Ok(()),
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

/// Why an image is not to be written, if it is not; as it is, its data may be wrong.
pub(super) fn damage(incompatible: u64) -> Option<&'static str> {
    match incompatible {
        set if set & CORRUPT != 0 => {
            Some("it is marked as corrupt; repair it with `qemu-img check -r all`")
        }
        set if set & DIRTY != 0 => Some(
            "it was not closed, and its refcounts may be wrong; repair it with `qemu-img check -r all`",
        ),
        _ => None,
    }
}

/// Refuses what contradicts itself.
pub(super) fn check_together(header: &Header) -> Result<(), Unusable> {
    if header.data_is_raw() && header.data_file.is_none() {
        return Err("its data file is to be raw, and it has none".into());
    }
    if header.data_is_raw() && header.backing.is_some() {
        return Err(
            "its data file cannot be raw over a backing file; change it with `qemu-img rebase`"
                .into(),
        );
    }
    if header.data_file.is_some() && header.snapshots.0 != 0 {
        return Err(format!("it has a data file and snapshots, which is not valid; {REPAIR}"));
    }
    Ok(())
}

/// What of the autoclear features still holds after the first change.
pub(super) fn kept(header: &Header) -> u64 {
    let known = if header.bitmaps.is_some() { BITMAPS | DATA_FILE_RAW } else { DATA_FILE_RAW };
    header.autoclear & known
}
