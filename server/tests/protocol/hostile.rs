//! Requests that no kernel sends.

use fsrv::{NodeId, abi::*, testing::ask};
use fsrv_transport::testing::Outcome;
use zerocopy::IntoBytes;

use crate::{
    sample::{Sample, ioctl_in, is_name, read_in, setxattr_in, transcripts, write_in},
    wire::{UNIQUE, Wire, errno},
};

const EINVAL: i32 = 22;
const ERANGE: i32 = 34;
const ENAMETOOLONG: i32 = 36;

/// Sets the length that the header tells.
fn with_len(mut message: Vec<u8>, len: usize) -> Vec<u8> {
    message[..4].copy_from_slice(&u32::try_from(len).unwrap().to_ne_bytes());
    message
}

#[test]
fn a_request_that_is_cut_anywhere_is_invalid() {
    for transcript in transcripts() {
        let whole = transcript.call.bytes(UNIQUE);
        let room = transcript.call.reply_room();
        let cut: Vec<_> =
            (40..whole.len()).map(|len| (with_len(whole[..len].to_vec(), len), room)).collect();
        for (outcome, (message, _)) in Wire::new(Sample).send_all(&cut).iter().zip(&cut) {
            let len = message.len();
            assert_eq!(errno(outcome), EINVAL, "operation {} cut at {len}", transcript.code);
        }
    }
}

#[test]
fn a_message_shorter_than_a_header_is_dropped() {
    let whole = ask(17, NodeId(1)).bytes(UNIQUE);
    for len in 0..40 {
        assert_eq!(Wire::new(Sample).send(&whole[..len], 0), Outcome::Discarded);
    }
}

#[test]
fn a_length_that_is_not_the_messages_is_invalid() {
    for transcript in transcripts() {
        let whole = transcript.call.bytes(UNIQUE);
        let lies: Vec<_> = [0, 1, 39, whole.len() + 1, 1 << 20, u32::MAX as usize]
            .map(|len| (with_len(whole.clone(), len), transcript.call.reply_room()))
            .into();
        for outcome in Wire::new(Sample).send_all(&lies) {
            assert_eq!(errno(&outcome), EINVAL, "operation {}", transcript.code);
        }
    }
}

#[test]
fn bytes_behind_a_name_or_data_are_invalid_and_behind_a_struct_ignored() {
    const ENDS_WITH_BYTES: [u32; 14] = [1, 6, 8, 9, 10, 11, 12, 13, 16, 22, 24, 35, 45, 1000];
    for transcript in transcripts() {
        let longer = transcript.call.clone().data(&[1; 8]);
        let expected = if ENDS_WITH_BYTES.contains(&transcript.code) { EINVAL } else { 0 };
        let result = Wire::new(Sample).errno(&longer);
        assert_eq!(result, expected, "operation {}", transcript.code);
    }
}

#[test]
fn a_request_larger_than_any_is_invalid_unless_it_is_data() {
    let huge = vec![b'a'; 200 << 10];
    assert_eq!(Wire::new(Sample).errno(&ask(1, NodeId(1)).data(&huge)), EINVAL);
}

#[test]
fn what_is_no_name_is_refused_by_every_operation_that_takes_one() {
    let long = "a".repeat(256);
    let names = ["", ".", "..", "a/b", "/", "../..", &long];
    for name in names {
        let c_name = std::ffi::CString::new(name).unwrap();
        assert!(!is_name(&c_name));
        let expected = if name.len() > 255 { ENAMETOOLONG } else { EINVAL };
        let wire = Wire::new(Sample);
        let root = |code| ask(code, NodeId(1));
        for call in [
            root(6).name(name).name("target"),
            root(8).arg(&fuse_mknod_in::default()).name(name),
            root(9).arg(&fuse_mkdir_in::default()).name(name),
            root(10).name(name),
            root(11).name(name),
            root(12).arg(&fuse_rename_in::default()).name(name).name("new"),
            root(12).arg(&fuse_rename_in::default()).name("old").name(name),
            root(13).arg(&fuse_link_in::default()).name(name),
            root(35).arg(&fuse_create_in::default()).name(name),
            root(45).arg(&fuse_rename2_in::default()).name(name).name("new"),
            root(45).arg(&fuse_rename2_in::default()).name("old").name(name),
        ] {
            assert_eq!(wire.errno(&call), expected, "{name:?} in {call:?}");
        }
        let looked_up = wire.errno(&root(1).name(name));
        assert_eq!(looked_up, if matches!(name, "." | "..") { 0 } else { expected });
    }
}

#[test]
fn a_name_with_a_nul_inside_or_none_at_its_end_is_invalid() {
    for name in [&b"a\0b\0"[..], b"ab", b"a\0\0", b""] {
        assert_eq!(Wire::new(Sample).errno(&ask(1, NodeId(1)).data(name)), EINVAL, "{name:?}");
        assert_eq!(Wire::new(Sample).errno(&ask(24, NodeId(1)).data(name)), EINVAL, "{name:?}");
    }
}

#[test]
fn an_attribute_name_is_one_to_255_bytes() {
    for (len, expected) in [(0, ERANGE), (1, 0), (255, 0), (256, ERANGE)] {
        let call = ask(24, NodeId(1)).name("x".repeat(len));
        assert_eq!(Wire::new(Sample).errno(&call), expected, "{len} bytes");
    }
}

#[test]
fn a_size_that_lies_is_invalid() {
    let wire = Wire::new(Sample);
    let root = |code| ask(code, NodeId(1));
    for size in [0, 6, 8, u32::MAX] {
        assert_eq!(wire.errno(&root(16).arg(&write_in(size)).data(b"written")), EINVAL);
    }
    for size in [6, 1 << 16, u32::MAX] {
        let call = root(21).arg(&setxattr_in(size)).name("user.name").data(b"value");
        assert_eq!(wire.errno(&call), EINVAL, "setxattr {size}");
        let call = root(39).arg(&ioctl_in(size, 4)).data(b"argh").room(4);
        assert_eq!(wire.errno(&call), EINVAL, "ioctl in {size}");
        let call = root(39).arg(&ioctl_in(4, size)).data(b"argh").room(4);
        assert_eq!(wire.errno(&call), EINVAL, "ioctl out {size}");
    }
    for count in [3, 1 << 28, u32::MAX] {
        let call = root(49).arg(&fuse_removemapping_in { count }).data(&[0; 32]);
        assert_eq!(wire.errno(&call), EINVAL, "removemapping {count}");
    }
    for code in [15, 28, 44] {
        assert_eq!(wire.errno(&root(code).arg(&read_in(513)).room(512)), EINVAL);
        assert_eq!(wire.errno(&root(code).arg(&read_in(u32::MAX)).room(512)), EINVAL);
    }
}

#[test]
fn extensions_that_lie_are_invalid() {
    /// Sets `total_extlen`, which counts words of eight bytes.
    fn message(extensions: &[u32], total: u16) -> Vec<u8> {
        let call = ask(9, NodeId(1)).arg(&fuse_mkdir_in::default()).name("name");
        let mut bytes = call.data(extensions.as_bytes()).bytes(UNIQUE);
        bytes[36..38].copy_from_slice(&total.to_ne_bytes());
        bytes
    }
    let groups = FUSE_EXT_GROUPS;
    for (extensions, total, expected) in [
        (&[16, groups, 1, 1000][..], 2, 0),
        (&[16, groups, 0, 0], 2, 0),
        // A type that is not known yet.
        (&[16, 40, 1, 1000], 2, 0),
        (&[16, groups, 1, 1000], 3, EINVAL),
        (&[16, groups, 1, 1000], u16::MAX, EINVAL),
        (&[16, groups, 2, 1000], 2, EINVAL),
        (&[16, groups, u32::MAX, 1000], 2, EINVAL),
        (&[8, groups], 1, EINVAL),
        (&[0, groups, 1, 1000], 2, EINVAL),
        (&[4, groups, 1, 1000], 2, EINVAL),
        (&[24, groups, 1, 1000], 2, EINVAL),
        (&[12, groups, 1, 1000], 2, EINVAL),
        (&[u32::MAX, groups, 1, 1000], 2, EINVAL),
        // Security contexts, which were not asked for.
        (&[16, 1, 1, 1000], 2, EINVAL),
    ] {
        let outcome = Wire::new(Sample).send(&message(extensions, total), 0);
        assert_eq!(errno(&outcome), expected, "{extensions:?} of {total}");
    }
}

#[test]
fn times_and_locks_out_of_range_are_invalid() {
    let wire = Wire::new(Sample);
    let late =
        fuse_setattr_in { valid: FATTR_ATIME, atimensec: 1_000_000_000, ..Default::default() };
    assert_eq!(wire.errno(&ask(4, NodeId(1)).arg(&late)), EINVAL);
    for lk in [
        fuse_file_lock { start: 2, end: 1, r#type: 0, pid: 0 },
        fuse_file_lock { start: 0, end: 1, r#type: 3, pid: 0 },
        fuse_file_lock { start: u64::MAX, end: u64::MAX, r#type: 0, pid: 0 },
    ] {
        let call = ask(32, NodeId(1)).arg(&fuse_lk_in { lk, ..Default::default() });
        assert_eq!(wire.errno(&call), EINVAL, "{lk:?}");
    }
}
