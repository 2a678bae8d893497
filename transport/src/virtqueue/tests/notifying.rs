//! Who is told when, and who sleeps.

use std::time::Duration;

use tokio::time::timeout;

use super::driver::Driver;
use crate::transport::{Completion, Transport};

#[tokio::test]
async fn a_batch_is_told_of_once() {
    for event_idx in [false, true] {
        let (mut driver, mut queue) = Driver::new(event_idx);
        for head in [0, 2, 4] {
            driver.send(head, b"ask", 16);
        }
        for _ in 0..3 {
            answer(&mut queue).await;
            queue.flush();
        }
        assert_eq!((driver.used(), driver.calls()), (3, 1));
    }
}

#[tokio::test]
async fn a_guest_that_polls_is_not_told() {
    let (mut driver, mut queue) = Driver::new(true);
    driver.send(0, b"ask", 16);
    answer(&mut queue).await;
    queue.flush();
    assert_eq!(driver.calls(), 1, "nobody knows yet what the guest has seen");
    driver.set_used_event(5);
    driver.send(0, b"ask", 16);
    answer(&mut queue).await;
    queue.flush();
    assert_eq!((driver.used(), driver.calls()), (2, 1));
    driver.set_used_event(2);
    driver.send(0, b"ask", 16);
    answer(&mut queue).await;
    queue.flush();
    assert_eq!(driver.calls(), 2);
}

#[tokio::test]
async fn a_kick_wakes_a_queue_that_asked_for_it() {
    for event_idx in [false, true] {
        let (mut driver, mut queue) = Driver::new(event_idx);
        for round in 0..3 {
            let quiet = timeout(Duration::from_millis(5), queue.recv()).await;
            assert!(quiet.is_err());
            assert_eq!(driver.used_flags(), 0);
            if event_idx {
                assert_eq!(driver.avail_event(), round);
            }
            driver.send(0, b"ask", 16);
            driver.kick();
            timeout(Duration::from_secs(5), answer(&mut queue)).await.unwrap();
            assert_eq!(driver.used_flags(), u16::from(!event_idx));
            queue.flush();
        }
    }
}

#[tokio::test]
async fn what_was_answered_is_seen_before_the_queue_sleeps() {
    let (mut driver, mut queue) = Driver::new(true);
    driver.send(0, b"ask", 16);
    answer(&mut queue).await;
    assert!(timeout(Duration::from_millis(5), queue.recv()).await.is_err());
    assert_eq!((driver.used(), driver.calls()), (1, 1));
}

#[tokio::test]
async fn a_queue_that_polls_finds_messages_without_a_kick() {
    let (mut driver, mut queue) = Driver::polled(true, Duration::from_secs(5));
    // Polling begins when a sleep was short.
    driver.send(0, b"ask", 16);
    answer(&mut queue).await;
    queue.flush();
    let (mut driver, mut queue) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            driver.kick();
            driver
        },
        async {
            let _ = timeout(Duration::from_millis(50), queue.recv()).await;
            queue
        }
    );
    driver.send(2, b"ask", 16);
    timeout(Duration::from_secs(1), answer(&mut queue)).await.unwrap();
}

async fn answer(queue: &mut super::super::Virtqueue) {
    let message = queue.recv().await.unwrap().expect("a message");
    message.completion.reply(&[0; 16], b"", None).unwrap();
}
