//! INIT, and what comes before it; FORGET; INTERRUPT.

use std::sync::Mutex;

use fsrv::{Context, Errno, FileSystem, NodeId, Result, abi::*, op::*, testing::*, types::*};
use fsrv_transport::{
    mem::page_size,
    testing::{MemClient, Outcome},
};

use crate::{
    sample::Sample,
    wire::{UNIQUE, Wire, errno, init_bytes},
};

const EIO: i32 = 5;
const EBADF: i32 = 9;
const EAGAIN: i32 = 11;
const EINVAL: i32 = 22;
const EPROTO: i32 = 71;

fn init(message: &[u8]) -> std::result::Result<fuse_init_out, i32> {
    let outcome = Wire::before_init(Sample).send(message, 0);
    match errno(&outcome) {
        0 => {
            let Outcome::Replied(bytes) = outcome else { unreachable!("it has an errno") };
            Ok(Reply(bytes[16..].to_vec()).get())
        }
        errno => Err(errno),
    }
}

#[test]
fn a_request_before_init_fails_and_those_after_it_do_not() {
    let wire = Wire::before_init(Sample);
    let statfs = || (ask(17, NodeId(1)).bytes(UNIQUE), 0);
    let init = (init_bytes(7, 45, 0), 0);
    let destroy = (ask(38, NodeId(0)).bytes(UNIQUE), 0);
    let outcomes = wire.send_all(&[statfs(), init, statfs(), destroy, statfs()]);
    assert_eq!(outcomes.iter().map(errno).collect::<Vec<_>>(), [EIO, 0, 0, 0, EIO]);
}

#[test]
fn the_minor_version_is_the_lower_of_both_and_at_least_31() {
    for (theirs, agreed) in [(31, 31), (38, 38), (45, 45), (46, 45), (99, 45)] {
        assert_eq!(init(&init_bytes(7, theirs, 0)).unwrap().minor, agreed);
    }
    for minor in [0, 8, 30] {
        assert_eq!(init(&init_bytes(7, minor, 0)).unwrap_err(), EPROTO);
    }
}

#[test]
fn another_major_version_is_refused_or_told_ours() {
    assert_eq!(init(&init_bytes(6, 45, 0)).unwrap_err(), EPROTO);
    let ours = init(&init_bytes(8, 0, 0)).unwrap();
    assert_eq!((ours.major, ours.minor, ours.flags, ours.max_write), (7, 45, 0, 0));
    let asked_again = [(init_bytes(8, 0, 0), 0), (ask(17, NodeId(1)).bytes(UNIQUE), 0)];
    let outcomes = Wire::before_init(Sample).send_all(&asked_again);
    assert_eq!(errno(&outcomes[1]), EIO, "a client of another version has not begun");
}

#[test]
fn the_short_init_of_old_kernels_is_understood() {
    let head = fuse_init_in_head { major: 7, minor: 31, max_readahead: 4096, flags: 1 };
    let reply = init(&ask(26, NodeId(0)).arg(&head).bytes(UNIQUE)).unwrap();
    assert_eq!((reply.minor, reply.max_readahead, reply.flags2), (31, 4096, 0));
    let cut = ask(26, NodeId(0)).data(&[7, 0, 0, 0, 45, 0, 0, 0]).bytes(UNIQUE);
    assert_eq!(init(&cut).unwrap_err(), EINVAL);
}

#[test]
fn flags_above_32_count_only_with_init_ext() {
    let high = FUSE_HAS_EXPIRE_ONLY;
    assert_eq!(init(&init_bytes(7, 45, high)).unwrap().flags2, 0);
    let reply = init(&init_bytes(7, 45, high | FUSE_INIT_EXT)).unwrap();
    assert_eq!(u64::from(reply.flags2) << 32, high);
    assert_eq!(u64::from(reply.flags), FUSE_INIT_EXT);
}

#[test]
fn nothing_is_asked_for_that_was_not_offered() {
    for flags in [0, 1 << 22, 1 << 13, u64::MAX >> 33] {
        let reply = init(&init_bytes(7, 45, flags)).unwrap();
        let asked = u64::from(reply.flags) | u64::from(reply.flags2) << 32;
        assert_eq!(asked & !flags, 0, "offered {flags:#x}");
    }
}

#[test]
fn a_client_of_many_pages_may_send_a_mebibyte_and_256_in_the_background() {
    let reply = init(&init_bytes(7, 45, u64::MAX)).unwrap();
    assert!(reply.max_write >= 1 << 20 && usize::from(reply.max_pages) * page_size() >= 1 << 20);
    assert_eq!((reply.max_background, reply.time_gran), (256, 1));
    let old = init(&init_bytes(7, 45, 0)).unwrap();
    assert_eq!((old.max_write, old.max_pages), (32 * 4096, 32));
}

#[test]
fn setxattr_has_its_short_form_for_a_client_without_the_long_one() {
    let short = fuse_setxattr_in_compat { size: 5, flags: 0 };
    let call = ask(21, NodeId(1)).arg(&short).name("user.name").data(b"value");
    assert_eq!(Wire::offering(Sample, 0).errno(&call), 0);
    assert_eq!(Wire::offering(Sample, FUSE_SETXATTR_EXT).errno(&call), EBADF);
}

/// Remembers what it was told to forget.
#[derive(Default)]
struct Forgetful(Mutex<Vec<(u64, u64)>>);

impl FileSystem for Forgetful {
    fn forget(&self, nodeid: NodeId, nlookup: u64) {
        self.0.lock().unwrap().push((nodeid.0, nlookup));
    }
}

#[test]
fn a_forget_has_no_reply_and_a_batch_counts_what_is_there() {
    let wire = Wire::new(Forgetful::default());
    let one = |nodeid, nlookup| fuse_forget_one { nodeid, nlookup };
    let batch = |count| ask(42, NodeId(0)).arg(&fuse_batch_forget_in { count, dummy: 0 });
    for call in [
        ask(2, NodeId(9)).arg(&fuse_forget_in { nlookup: 3 }),
        ask(2, NodeId(9)).data(&[1, 2, 3]),
        batch(2).arg(&one(10, 1)).arg(&one(11, 2)),
        batch(1).arg(&one(12, 1)).arg(&one(13, 2)),
        batch(u32::MAX).arg(&one(14, 1)).data(&[0; 15]),
        batch(7),
        ask(42, NodeId(0)).data(&[1]),
    ] {
        let outcome = wire.call(&call);
        assert!(matches!(outcome, Outcome::Discarded) || errno(&outcome) == EINVAL);
    }
    let forgotten = wire.session().fs().0.lock().unwrap().clone();
    assert_eq!(forgotten, [(9, 3), (10, 1), (11, 2), (12, 1), (14, 1)]);
}

#[test]
fn a_batch_as_long_as_a_mebibyte_is_forgotten_whole() {
    let wire = Wire::new(Forgetful::default());
    let count = (1 << 20) / 16;
    let head = ask(42, NodeId(0)).arg(&fuse_batch_forget_in { count, dummy: 0 });
    let list = vec![1u8; count as usize * 16];
    assert_eq!(wire.call(&head.data(&list)), Outcome::Discarded);
    assert_eq!(wire.session().fs().0.lock().unwrap().len(), count as usize);
}

#[test]
fn an_interrupt_of_an_unknown_request_is_to_be_sent_again() {
    let call = ask(36, NodeId(0)).arg(&fuse_interrupt_in { unique: 77 });
    assert_eq!(Wire::new(Sample).errno(&call), EAGAIN);
    assert_eq!(Wire::new(Sample).errno(&ask(36, NodeId(0)).data(&[1])), EAGAIN);
}

/// Opens until it is interrupted.
struct Waiting;

impl FileSystem for Waiting {
    async fn open(&self, cx: &Context, _: Open) -> Result<Opened> {
        let _parked = cx.park()?;
        cx.interrupted().await;
        Err(Errno::EINTR)
    }
}

fn with_waiting(test: impl AsyncFnOnce(&TestClient)) {
    let (client, session) = (TestClient::new(), fsrv::Session::new(Waiting, Default::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let served = fsrv::serve(client.transport(1), &session);
    let test = async {
        client.init().await.unwrap();
        test(&client).await;
        client.hang_up();
    };
    runtime.block_on(async { futures::join!(served, test).0 }).unwrap();
}

#[test]
fn an_interrupt_reaches_its_request_and_has_no_reply() {
    with_waiting(async |client| {
        let open = client.send(ask(14, NodeId(1)).arg(&fuse_open_in::default()));
        assert_eq!(client.interrupt(open.unique).exchange.await, Outcome::Discarded);
        assert_eq!(open.reply().await.unwrap_err(), Errno::EINTR);
    });
}

#[test]
fn an_interrupt_reaches_a_request_that_was_sent_again_and_the_first_one() {
    with_waiting(async |client| {
        let call = ask(14, NodeId(1)).arg(&fuse_open_in::default());
        let first = client.send(call.clone());
        let resent = first.unique | FUSE_UNIQUE_RESEND;
        let again =
            Asked { unique: resent, exchange: MemClient::send(client, &call.bytes(resent), 0) };
        assert_eq!(client.interrupt(resent).exchange.await, Outcome::Discarded);
        assert_eq!(first.reply().await.unwrap_err(), Errno::EINTR);
        assert_eq!(again.reply().await.unwrap_err(), Errno::EINTR);
    });
}

#[test]
fn an_interrupt_that_overtakes_a_request_sent_again_reaches_it() {
    with_waiting(async |client| {
        let unique = 100 | FUSE_UNIQUE_RESEND;
        assert_eq!(client.interrupt(unique).reply().await.unwrap_err(), Errno::EAGAIN);
        let call = ask(14, NodeId(1)).arg(&fuse_open_in::default());
        let open = Asked { unique, exchange: MemClient::send(client, &call.bytes(unique), 0) };
        assert_eq!(open.reply().await.unwrap_err(), Errno::EINTR);
    });
}

#[test]
fn an_interrupt_that_overtakes_its_request_reaches_it() {
    with_waiting(async |client| {
        let next = client.send(ask(17, NodeId(1))).unique + 4;
        assert_eq!(client.interrupt(next).reply().await.unwrap_err(), Errno::EAGAIN);
        let open = client.send(ask(14, NodeId(1)).arg(&fuse_open_in::default()));
        assert_eq!(open.unique, next);
        assert_eq!(open.reply().await.unwrap_err(), Errno::EINTR);
    });
}

#[test]
fn an_interrupt_of_one_client_does_not_reach_the_next_ones_request() {
    with_waiting(async |client| {
        assert_eq!(client.interrupt(6).reply().await.unwrap_err(), Errno::EAGAIN);
        client.init().await.unwrap();
        let open = client.send(ask(14, NodeId(1)).arg(&fuse_open_in::default()));
        client.request(ask(17, NodeId(1))).await.unwrap_err();
        assert_eq!(open.exchange.outcome(), None);
    });
}
