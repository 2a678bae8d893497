//! A guest's memory that changes while the device runs.

use std::{sync::Arc, time::Duration};

use fsrv::{Errno, virtio_fs::ActivateError};
use fsrv_transport::vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestRegionMmap, bitmap::AtomicBitmap,
};
use tokio::time::timeout;

use crate::{
    driver::{A_WHILE, MEMORY, Memory},
    gated::WAITS,
    monitor::{Monitor, forget, lookup, until, wait_for_lock},
};

/// What is plugged in behind the rest.
const MORE: u64 = MEMORY as u64 + 0x10_0000;

fn with_more(memory: &Memory) -> Arc<Memory> {
    let more = GuestRegionMmap::<AtomicBitmap>::from_range(GuestAddress(MORE), MEMORY, None);
    Arc::new(memory.insert_region(Arc::new(more.unwrap())).unwrap())
}

fn without_more(memory: &Memory) -> Arc<Memory> {
    Arc::new(memory.remove_region(GuestAddress(MORE), MEMORY as u64).unwrap().0)
}

impl Monitor {
    async fn plug_in(&mut self) -> Arc<Memory> {
        let more = with_more(&self.memory);
        self.device.update_memory(more.clone()).await.unwrap();
        self.queues.iter_mut().for_each(|queue| queue.use_memory(&more));
        more
    }
}

#[tokio::test]
async fn messages_lie_in_memory_that_was_plugged_in() {
    let mut monitor = Monitor::begun(2).await;
    monitor.queues[1].lie_at(MORE);
    let more = monitor.plug_in().await;
    for _ in 0..20 {
        monitor.queues[1].request(&lookup("name")).await.unwrap();
        monitor.queues[2].request(&lookup("name")).await.unwrap();
    }
    monitor.queues[0].tell(&forget(40));
    until("it is forgotten", || monitor.fs.lookups() == 0).await;
    // Its bitmap notes what was answered there.
    let region = more.find_region(GuestAddress(MORE)).unwrap();
    use fsrv_transport::vm_memory::{GuestMemoryRegion, bitmap::Bitmap};
    assert!((0..16).any(|page| region.bitmap().dirty_at(page * 4096)));
}

#[tokio::test]
async fn memory_goes_when_no_message_is_in_it_any_more() {
    let mut monitor = Monitor::begun(2).await;
    let more = monitor.plug_in().await;
    monitor.queues[1].lie_at(MORE);
    let waits = monitor.queues[1].send(&lookup(WAITS));
    monitor.until_waiting(1).await;
    {
        let mut gone = std::pin::pin!(monitor.device.update_memory(without_more(&more)));
        assert!(timeout(A_WHILE, &mut gone).await.is_err(), "a lookup is answered there");
        // The other queue has the new memory, and goes on.
        monitor.queues[2].request(&lookup("name")).await.unwrap();
        monitor.fs.open_gate();
        gone.await.unwrap();
    }
    monitor.queues[1].reply(waits).await.unwrap();
    // Nothing is found there any more.
    monitor.queues[1].offer(&lookup("name"));
    monitor.queues[1].kick();
    until("it is refused", || monitor.queues[1].used() == 3).await;
    monitor.queues[2].request(&lookup("name")).await.unwrap();
}

#[tokio::test]
async fn who_waits_for_a_lock_in_memory_that_goes_gets_eintr_and_other_queues_do_not() {
    let mut monitor = Monitor::begun(2).await;
    let more = monitor.plug_in().await;
    monitor.queues[1].lie_at(MORE);
    let waiter = monitor.queues[1].send(&wait_for_lock());
    let other = monitor.queues[2].send(&wait_for_lock());
    monitor.until_waiting(2).await;
    monitor.device.update_memory(without_more(&more)).await.unwrap();
    assert_eq!(monitor.queues[1].reply(waiter).await.unwrap_err(), Errno::EINTR);
    assert!(monitor.queues[2].waits(other).await);
    monitor.queues[1].lie_at_home();
    monitor.queues[1].request(&lookup("name")).await.unwrap();
}

#[tokio::test]
async fn requests_that_hold_memory_are_named_and_the_device_goes_on_without_them() {
    let mut monitor = Monitor::begun(2).await;
    let more = monitor.plug_in().await;
    monitor.queues[1].lie_at(MORE);
    let waits = monitor.queues[1].send(&lookup(WAITS));
    monitor.until_waiting(1).await;
    let error = monitor.device.update_memory(without_more(&more)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("requests do not end: lookup {waits}"));
    monitor.queues[2].request(&lookup("name")).await.unwrap();
    monitor.fs.open_gate();
    monitor.device.resume().await.unwrap();
    monitor.queues[1].reply(waits).await.unwrap();
    monitor.queues[1].lie_at_home();
    monitor.queues[1].request(&lookup("name")).await.unwrap();
}

#[tokio::test]
async fn an_update_that_was_dropped_is_used_and_the_device_goes_on() {
    let mut monitor = Monitor::begun(1).await;
    let more = monitor.plug_in().await;
    monitor.queues[1].lie_at(MORE);
    let waits = monitor.queues[1].send(&lookup(WAITS));
    monitor.until_waiting(1).await;
    let update = monitor.device.update_memory(without_more(&more));
    assert!(timeout(Duration::from_millis(1500), update).await.is_err());
    monitor.fs.open_gate();
    monitor.device.resume().await.unwrap();
    monitor.queues[1].reply(waits).await.unwrap();
    monitor.queues[1].lie_at_home();
    monitor.queues[1].request(&lookup("name")).await.unwrap();
}

#[tokio::test]
async fn memory_without_a_ring_is_refused_and_nothing_changes() {
    let mut monitor = Monitor::begun(1).await;
    let elsewhere = Arc::new(Memory::from_ranges(&[(GuestAddress(MORE), MEMORY)]).unwrap());
    let error = monitor.device.update_memory(elsewhere).await.unwrap_err();
    assert!(matches!(error, ActivateError::Queue { index: 0, .. }), "{error:?}");
    monitor.queues[1].request(&lookup("name")).await.unwrap();
}

#[tokio::test]
async fn a_paused_device_goes_on_in_the_memory_that_it_was_given() {
    let mut monitor = Monitor::inactive(1).await;
    monitor.device.update_memory(monitor.memory.clone()).await.unwrap();
    monitor.activate().await;
    monitor.queues[1].request(&crate::monitor::init()).await.unwrap();
    monitor.device.pause().await.unwrap();
    monitor.plug_in().await;
    monitor.queues[1].lie_at(MORE);
    let offered = monitor.queues[1].send(&lookup("name"));
    assert!(monitor.queues[1].waits(offered).await, "it stays paused");
    monitor.device.resume().await.unwrap();
    monitor.queues[1].reply(offered).await.unwrap();
    let mut byte = [0];
    monitor.memory.read_slice(&mut byte, GuestAddress(0)).unwrap();
}
