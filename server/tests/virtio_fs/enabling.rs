//! Queues that a driver has not enabled, and those that break.

use std::sync::{Arc, Mutex};

use fsrv::virtio_fs::{FEATURES, QueueFault};
use fsrv_transport::{
    virtio_queue::{Queue, QueueT},
    virtqueue::Source,
    vm_memory::{Bytes, GuestAddress},
};
use rustix::event::{EventfdFlags, eventfd};

use crate::{
    driver::{A_WHILE, SIZE, queue},
    monitor::{Monitor, init, lookup, until},
};

/// A queue as it is after a reset: nowhere, and not enabled.
fn not_enabled() -> Source {
    let queue = Queue::new(SIZE).unwrap();
    assert!(!queue.ready());
    Source::new(&queue, eventfd(1, EventfdFlags::CLOEXEC).unwrap(), || {})
}

/// EDK2's driver uses the first request queue alone.
#[tokio::test]
async fn a_queue_that_the_driver_has_not_enabled_is_left_alone() {
    let mut monitor = Monitor::inactive(3).await;
    let mut sources = monitor.drive();
    for index in [0, 2, 3] {
        sources[index] = not_enabled();
    }
    // What is at address 0 looks like a ring without messages: not one of its bytes changes.
    let (mut before, mut after) = ([0x1; 0x8000], [0; 0x8000]);
    before[..4].fill(0);
    let zero = GuestAddress(0);
    monitor.memory.write_slice(&before, zero).unwrap();
    monitor.device.activate(monitor.memory.clone(), FEATURES, sources).await.unwrap();
    monitor.queues[1].request(&init()).await.unwrap();
    for round in 0..3 {
        monitor.queues[1].request(&lookup("name")).await.unwrap();
        tokio::time::sleep(A_WHILE).await;
        assert_eq!(monitor.device.pause().await.unwrap(), [0, 2 + round, 0, 0]);
        monitor.device.resume().await.unwrap();
    }
    monitor.memory.read_slice(&mut after, zero).unwrap();
    assert!(before == after, "something was written to address 0");
    monitor.device.reset().await.unwrap();
    monitor.activate().await;
    monitor.queues[2].request(&init()).await.unwrap();
}

#[tokio::test]
async fn a_queue_that_is_enabled_without_entries_is_refused() {
    let mut monitor = Monitor::inactive(1).await;
    let mut sources = monitor.drive();
    let mut nowhere = queue(0x2_0000, SIZE);
    // Its registers say nothing that a ring could have.
    nowhere.try_set_avail_ring_address(GuestAddress(u64::MAX - 1)).unwrap();
    sources[1] = Source::new(&nowhere, eventfd(0, EventfdFlags::CLOEXEC).unwrap(), || {});
    monitor.device.activate(monitor.memory.clone(), FEATURES, sources).await.unwrap_err();
    monitor.activate().await;
    monitor.queues[1].request(&init()).await.unwrap();
}

#[tokio::test]
async fn a_queue_that_breaks_is_told_to_the_monitor_once_and_again_after_it_was_started() {
    let mut monitor = Monitor::inactive(2).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = told.clone();
    monitor.device =
        monitor.device.on_error(move |queue, fault| hook.lock().unwrap().push((queue, fault)));
    for times in 1..=2 {
        monitor.activate().await;
        monitor.queues[1].request(&init()).await.unwrap();
        // More messages than the ring has entries.
        monitor.queues[2].claim(SIZE + 1);
        monitor.queues[2].kick();
        let all = vec![(2, QueueFault::Broken); times];
        until("it is told", || *told.lock().unwrap() == all).await;
        monitor.queues[2].kick();
        // The others go on.
        monitor.queues[1].request(&lookup("name")).await.unwrap();
        monitor.device.reset().await.unwrap();
        assert_eq!(*told.lock().unwrap(), all);
    }
}
