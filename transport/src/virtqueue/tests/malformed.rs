//! What a hostile guest offers.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::timeout;

use super::super::QueueFault;
use super::driver::{DATA, Desc, Driver, END, GAP, INDIRECT, NEXT, SIZE, WRITE};
use crate::transport::{Completion, Transport};

const TABLE: u64 = DATA + 0x8000;

#[tokio::test]
async fn chains_that_are_no_message_are_given_back_and_counted() {
    let chains: [(&str, &[Desc], &[Desc]); 9] = [
        ("a loop", &[(DATA, 8, NEXT, 1), (DATA, 8, NEXT, 0)], &[]),
        ("outside", &[(END, 8, 0, 0)], &[]),
        ("partly outside", &[(GAP - 4, 8, 0, 0)], &[]),
        ("past every address", &[(u64::MAX - 3, 8, 0, 0)], &[]),
        ("next outside the table", &[(DATA, 8, NEXT, SIZE)], &[]),
        ("readable behind writable", &[(DATA, 8, NEXT | WRITE, 1), (DATA, 8, 0, 0)], &[]),
        ("an odd table", &[(TABLE, 17, INDIRECT, 0)], &[(DATA, 8, 0, 0)]),
        ("a table in a table", &[(TABLE, 32, INDIRECT, 0)], &[(TABLE, 16, INDIRECT, 0)]),
        ("a loop in a table", &[(TABLE, 32768 * 16, INDIRECT, 0)], &[(DATA, 8, NEXT, 0)]),
    ];
    let (mut driver, mut queue) = Driver::new(true);
    for (index, (what, descs, table)) in (0..).zip(chains) {
        for (index, desc) in (0..).zip(descs) {
            driver.describe(index, *desc);
        }
        for (index, desc) in (0..).zip(table) {
            driver.describe_at(TABLE + index * 16, *desc);
        }
        driver.offer(0);
        let nothing = timeout(Duration::from_millis(5), queue.recv()).await;
        assert!(nothing.is_err(), "{what}");
        assert_eq!((driver.used(), driver.answer(index)), (index + 1, (0, 0)), "{what}");
        assert_eq!(driver.control.malformed(), u64::from(index) + 1, "{what}");
    }
    driver.send(0, b"a good one", 16);
    assert_eq!(queue.recv().await.unwrap().unwrap().input.to_vec(), b"a good one");
}

#[tokio::test]
async fn a_message_may_have_no_bytes_to_read_or_no_room() {
    let (mut driver, mut queue) = Driver::new(true);
    driver.describe(0, (DATA, 32, WRITE, 0));
    driver.offer(0);
    driver.describe(1, (DATA, 8, 0, 0));
    driver.offer(1);
    let message = queue.recv().await.unwrap().unwrap();
    assert_eq!((message.input.len(), message.output.remaining()), (0, 16));
    message.completion.discard();
    let message = queue.recv().await.unwrap().unwrap();
    assert_eq!((message.input.len(), message.output.remaining()), (8, 0));
    message.completion.reply(&[0; 16], b"", None).unwrap_err();
    queue.flush();
    assert_eq!(driver.used(), 2);
}

#[tokio::test]
async fn a_ring_that_makes_no_sense_stops_and_says_so() {
    for wreck in [
        (|driver| driver.set_avail(SIZE + 1)) as fn(&mut Driver),
        |driver| driver.offer(SIZE),
        |driver| {
            driver.send(0, b"once", 16);
            driver.send(0, b"twice", 16);
        },
    ] {
        let (mut driver, mut queue) = Driver::new(true);
        wreck(&mut driver);
        let mut taken = Vec::new();
        while let Ok(message) = timeout(Duration::from_millis(5), queue.recv()).await {
            taken.push(message.unwrap().unwrap());
        }
        assert_eq!(*driver.faults.lock().unwrap(), [QueueFault::Broken]);
        driver.kick();
        assert!(timeout(Duration::from_millis(5), queue.recv()).await.is_err());
        for message in taken {
            message.completion.reply(&[0; 16], b"", None).unwrap();
        }
        driver.control.stop();
        assert!(queue.recv().await.unwrap().is_none());
        drop(queue);
        assert!(driver.control.stopped().await.is_some());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    /// Whatever is in the table and the rings: each chain that is taken is given back once, and
    /// nothing outside the guest's memory is touched.
    #[test]
    fn random_rings_never_break_the_queue(
        descs in prop::collection::vec(desc(), usize::from(SIZE)),
        table in prop::collection::vec(desc(), 6),
        heads in prop::collection::vec(0..SIZE + 1, 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut driver, mut queue) = Driver::new(true);
            for (index, desc) in (0..).zip(&descs) {
                driver.describe(index, *desc);
            }
            for (index, desc) in (0..).zip(&table) {
                driver.describe_at(TABLE + index * 16, *desc);
            }
            let mut taken = 0;
            for &head in &heads {
                driver.offer(head);
                let mut waiting = Box::pin(queue.recv());
                let polled = std::future::poll_fn(|cx| {
                    std::task::Poll::Ready(waiting.as_mut().poll(cx))
                }).await;
                drop(waiting);
                if let std::task::Poll::Ready(message) = polled {
                    let mut message = message.unwrap().unwrap();
                    let room = message.output.remaining().min(100_000);
                    let _ = message.output.append(&vec![1; room]);
                    let _ = message.input.take_front(&mut [0; 40]);
                    let _ = message.completion.reply(&[0; 16], b"", Some(message.output.finish()));
                    taken += 1;
                }
                queue.flush();
            }
            prop_assert!(taken <= heads.len());
            prop_assert!(usize::from(driver.used()) <= heads.len());
            Ok(())
        })?;
    }
}

fn desc() -> impl Strategy<Value = Desc> {
    let addr = prop_oneof![
        8 => DATA..DATA + 0x4000,
        4 => Just(TABLE),
        2 => GAP - 16..GAP + 16,
        2 => END - 16..END + 16,
        1 => any::<u64>(),
    ];
    let len = prop_oneof![8 => 0..200u32, 4 => Just(96), 1 => any::<u32>()];
    (addr, len, 0..8u16, 0..SIZE + 1)
}
