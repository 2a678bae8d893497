//! Orders to a queue that is served: stopping, and another memory.

use std::sync::{Arc, atomic::AtomicU32};

use vm_memory::{Bytes, GuestAddress};

use super::driver::{DATA, Driver, GAP, NEXT, WRITE, counting};
use crate::{
    mem::GuestMap,
    transport::{Completion, Transport},
    virtqueue::Stopped,
};

#[tokio::test]
async fn a_queue_that_is_stopped_takes_nothing_more_and_says_where_it_was() {
    let (mut driver, mut queue) = Driver::new(true);
    driver.send(0, b"taken", 16);
    let taken = queue.recv().await.unwrap().unwrap();
    driver.control.stop();
    driver.send(2, b"too late", 16);
    assert!(queue.recv().await.unwrap().is_none());
    taken.completion.reply(&[0; 16], b"", None).unwrap();
    drop(queue);
    assert_eq!(driver.control.stopped().await, Some(Stopped { next: 1 }));
    assert_eq!(driver.used(), 1);
}

#[tokio::test]
async fn whoever_is_to_be_told_from_now_on_is_told_at_once() {
    let (driver, mut queue) = Driver::new(true);
    let calls = Arc::<AtomicU32>::default();
    driver.control.set_call(Some(counting(&calls)));
    driver.control.stop();
    assert!(queue.recv().await.unwrap().is_none());
    assert_eq!((calls.load(std::sync::atomic::Ordering::SeqCst), driver.calls()), (1, 0));
}

#[tokio::test]
async fn memory_departs_when_no_message_is_in_it() {
    let (mut driver, mut queue) = Driver::new(true);
    let room = GAP + 0x2000;
    driver.describe(0, (DATA, 3, NEXT, 1));
    driver.describe(1, (room, 64, WRITE, 0));
    driver.offer(0);
    driver.send(2, b"elsewhere", 16);
    let (inside, elsewhere) = (queue.recv().await.unwrap(), queue.recv().await.unwrap());
    let map = GuestMap::of(driver.memory.clone()).unwrap();
    let regions = map.regions()[..2].to_vec();
    let smaller = GuestMap::new(regions, None);
    let departing = vec![(map.regions()[2].guest(), map.regions()[2].len())];
    let mut gone = driver.control.set_memory(Driver::config(true), smaller, departing);
    driver.send(4, b"after", 16);
    assert_eq!(queue.recv().await.unwrap().unwrap().input.to_vec(), b"after");
    elsewhere.unwrap().completion.reply(&[2; 16], b"", None).unwrap();
    assert!(gone.try_recv().is_err());
    inside.unwrap().completion.reply(&[1; 16], b"", None).unwrap();
    gone.try_recv().unwrap();
    queue.flush();
    let mut reply = [0; 16];
    driver.memory.read_slice(&mut reply, GuestAddress(room)).unwrap();
    assert_eq!((reply, driver.used()), ([1; 16], 2));
    driver.describe(6, (room, 64, WRITE, 0));
    driver.offer(6);
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(5), queue.recv()).await;
    assert!(nothing.is_err());
    assert_eq!(driver.control.malformed(), 1);
}
