//! Well-formed requests of every operation, and the bytes of their replies.

use std::{collections::BTreeSet, time::Duration};

use fsrv::{
    Context, Entry, FileSystem, NodeId, Result,
    abi::{FUSE_UNIQUE_RESEND, fuse_entry_out, fuse_interrupt_in},
    op::{self, Boxed, Opcode},
    testing::{Reply, ask, header_of},
};
use fsrv_transport::testing::Outcome;

use crate::{
    sample::{Sample, transcripts},
    wire::{UNIQUE, Wire},
};

const ENOSYS: i32 = 38;

fn assert_replies<F: FileSystem>(fs: F) {
    let transcripts = transcripts();
    let messages: Vec<_> =
        transcripts.iter().map(|t| (t.call.bytes(UNIQUE), t.call.reply_room())).collect();
    let outcomes = Wire::new(fs).send_all(&messages);
    for (transcript, outcome) in transcripts.iter().zip(outcomes) {
        let len = u32::try_from(16 + transcript.reply.len()).unwrap();
        let expected = [
            &len.to_ne_bytes()[..],
            &[0, 0, 0, 0],
            &[0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01],
            &transcript.reply,
        ]
        .concat();
        assert_eq!(outcome, Outcome::Replied(expected), "operation {}", transcript.code);
    }
}

#[test]
fn every_operation_replies_with_the_protocols_layout() {
    assert_replies(Sample);
}

#[test]
fn a_boxed_filesystem_gives_the_same_replies() {
    assert_replies(Boxed(Box::new(Sample)));
}

#[test]
fn every_code_has_a_transcript_or_is_never_implemented() {
    let written: BTreeSet<u32> = transcripts().iter().map(|t| t.code).collect();
    let sessions_own = BTreeSet::from([2, 26, 36, 38, 41, 42]);
    for code in 0..70 {
        let known = Opcode::from_code(code).is_some();
        assert_eq!(known, written.contains(&code) || sessions_own.contains(&code), "code {code}");
        if !known {
            assert_eq!(Wire::new(Sample).errno(&ask(code, NodeId(1))), ENOSYS, "code {code}");
        }
    }
}

#[test]
fn a_code_that_is_only_ours_is_unknown_on_the_wire() {
    for code in [0x8000_0015, u32::MAX, 4096, 1_048_576] {
        assert_eq!(Wire::new(Sample).errno(&ask(code, NodeId(1))), ENOSYS);
    }
}

#[test]
fn an_operation_that_is_not_implemented_answers_enosys() {
    struct Nothing;
    impl FileSystem for Nothing {}
    let wire = Wire::new(Nothing);
    for transcript in transcripts() {
        assert_eq!(wire.errno(&transcript.call), ENOSYS, "operation {}", transcript.code);
    }
}

#[test]
fn the_root_has_no_generation_whoever_gives_it_one() {
    struct Generations;
    impl FileSystem for Generations {
        async fn lookup(&self, _: &Context, op: op::Lookup<'_>) -> Result<Entry> {
            Ok(Entry { nodeid: op.parent, generation: 7, ..Entry::negative(Duration::ZERO) })
        }
    }
    for (parent, generation) in [(1, 0), (2, 7)] {
        let outcome = Wire::new(Generations).call(&ask(1, NodeId(parent)).name(".."));
        let Outcome::Replied(bytes) = outcome else { panic!("{outcome:?}") };
        let entry: fuse_entry_out = Reply(bytes[16..].to_vec()).get();
        assert_eq!((entry.nodeid, entry.generation), (parent, generation));
    }
}

#[test]
fn a_resent_request_is_answered_under_the_number_that_it_came_with() {
    let resent = UNIQUE | FUSE_UNIQUE_RESEND;
    let missing = ask(36, NodeId(0)).arg(&fuse_interrupt_in { unique: 77 });
    let mut cut = ask(17, NodeId(1)).bytes(resent);
    cut[0] += 1;
    for message in [
        ask(17, NodeId(1)).bytes(resent),
        ask(60, NodeId(1)).bytes(resent),
        ask(38, NodeId(0)).bytes(resent),
        missing.bytes(resent),
        cut,
    ] {
        let outcome = Wire::new(Sample).send(&message, 0);
        let Outcome::Replied(bytes) = outcome else { panic!("{outcome:?}") };
        assert_eq!(header_of(&bytes).unique, resent);
    }
}
