//! The layer that lets nothing change.

use fsrv::{NodeId, abi::*, layer::ReadOnly, testing::ask};

use crate::{
    sample::{Sample, transcripts},
    wire::Wire,
};

const EROFS: i32 = 30;

/// Everything that changes a filesystem whatever its arguments are.
const CHANGES: [u32; 16] = [4, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45, 47, 51];

#[test]
fn what_changes_something_is_refused_and_the_rest_passes() {
    let wire = Wire::new(ReadOnly(Sample));
    for transcript in transcripts() {
        // Device control may change a file, and copying has two forms.
        let changes = CHANGES.contains(&transcript.code) || matches!(transcript.code, 39 | 53);
        let expected = if changes { EROFS } else { 0 };
        assert_eq!(wire.errno(&transcript.call), expected, "operation {}", transcript.code);
    }
}

#[test]
fn an_open_is_refused_when_it_could_change_the_file() {
    let (wronly, rdwr, trunc, append, direct) = (1, 2, 0o1000, 0o2000, 0o40000);
    for (flags, expected) in [
        (0, 0),
        (direct, 0),
        (append, 0),
        (wronly, EROFS),
        (rdwr, EROFS),
        (trunc, EROFS),
        (wronly | append, EROFS),
        (3, EROFS),
    ] {
        let call = ask(14, NodeId(1)).arg(&fuse_open_in { flags, open_flags: 0 });
        assert_eq!(Wire::new(ReadOnly(Sample)).errno(&call), expected, "flags {flags:#o}");
    }
}

#[test]
fn flags_of_files_can_be_read_and_not_changed() {
    let (get, get_extended, set, unknown) = (0x8008_6601, 0x801c_581f, 0x4008_6602, 0x5401);
    for (cmd, expected) in [(get, 0), (get_extended, 0), (set, EROFS), (unknown, EROFS)] {
        let arg = fuse_ioctl_in { fh: 1, cmd, out_size: 28, ..Default::default() };
        let call = ask(39, NodeId(1)).arg(&arg).room(28);
        assert_eq!(Wire::new(ReadOnly(Sample)).errno(&call), expected, "command {cmd:#x}");
    }
}
