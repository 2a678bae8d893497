//! What a file begins like.

use crate::{open::Format, qcow2};

/// Bytes that are looked at.
pub(crate) const LEN: usize = 128;

/// What begins so, where, and how `qemu-img` calls it.
const FOREIGN: [(usize, &[u8], &str); 12] = [
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (64, &[0x7f, 0x10, 0xda, 0xbe], "vdi"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0, b"QED\0", "qed"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"QFI\xfb\0\0\0\x01", "qcow"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\n", "cloop"),
];

/// The format of what has this beginning; raw when that is of nothing known.
///
/// # Errors
/// The name of a format that is not supported: what a client would see are not the bytes of its disk.
pub(crate) fn format(beginning: &[u8]) -> Result<Format, &'static str> {
    let is_at = |&&(at, magic, _): &&(usize, &[u8], &str)| {
        beginning.get(at..).is_some_and(|rest| rest.starts_with(magic))
    };
    match FOREIGN.iter().find(is_at) {
        Some((_, _, name)) => Err(name),
        None if beginning.starts_with(&qcow2::MAGIC) => Ok(Format::Qcow2),
        None => Ok(Format::Raw),
    }
}
