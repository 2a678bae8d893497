//! Whatever the bytes are, each message has one outcome.

use fsrv_transport::testing::Outcome;
use proptest::prelude::*;

use crate::{
    sample::Sample,
    wire::{Wire, errno},
};

/// Messages with an honest length and a known code are the ones that get far.
fn message() -> impl Strategy<Value = (Vec<u8>, usize)> {
    let body = prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..300);
    let room = prop_oneof![Just(0usize), 0..5000usize];
    (body, 0..60u32, any::<bool>(), 0..4u16, room).prop_map(|(body, code, honest, ext, room)| {
        let mut bytes = body;
        if honest && bytes.len() >= 40 {
            let len = u32::try_from(bytes.len()).expect("short");
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
            bytes[4..8].copy_from_slice(&code.to_ne_bytes());
            bytes[36..38].copy_from_slice(&ext.to_ne_bytes());
        }
        (bytes, room)
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_have_one_outcome_and_do_no_harm(
        messages in prop::collection::vec(message(), 1..20),
    ) {
        for outcome in Wire::new(Sample).send_all(&messages) {
            match outcome {
                Outcome::Replied(_) => assert!((0..512).contains(&errno(&outcome))),
                Outcome::Discarded => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
