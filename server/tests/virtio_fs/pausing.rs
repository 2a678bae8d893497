//! A device that is paused, and goes on.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use fsrv::{Errno, op::Opcode, virtio_fs::FEATURES};
use fsrv_transport::vm_memory::{GuestMemoryBackend, GuestMemoryRegion, bitmap::Bitmap};
use tokio::time::timeout;

use crate::{
    driver::{A_WHILE, Memory},
    gated::WAITS,
    monitor::{Monitor, lookup, until, wait_for_lock},
};

#[tokio::test]
async fn a_pause_waits_for_what_is_in_flight_and_tells_where_it_stopped() {
    let mut monitor = Monitor::begun(2).await;
    let waits = monitor.queues[2].send(&lookup(WAITS));
    monitor.queues[1].request(&lookup("name")).await.unwrap();
    monitor.until_waiting(1).await;
    {
        let mut pause = std::pin::pin!(monitor.device.pause());
        assert!(timeout(A_WHILE, &mut pause).await.is_err(), "it waits for the lookup");
        monitor.fs.open_gate();
        assert_eq!(pause.await.unwrap(), [0, 2, 1]);
    }
    // It is answered before the pause ends.
    assert_eq!(monitor.queues[2].used(), 1);
    monitor.queues[2].reply(waits).await.unwrap();
    assert_eq!(
        monitor.device.pause().await.unwrap(),
        [0, 2, 1],
        "a device that is paused stays so"
    );
}

#[tokio::test]
async fn a_device_goes_on_with_what_was_offered_meanwhile() {
    let mut monitor = Monitor::begun(2).await;
    for round in 1..=3u16 {
        monitor.device.pause().await.unwrap();
        // With a kick, and without one.
        let kicked = monitor.queues[1].send(&lookup("name"));
        let silent = monitor.queues[2].offer(&lookup("name"));
        assert!(monitor.queues[1].waits(kicked).await);
        assert!(monitor.queues[2].waits(silent).await);
        monitor.device.resume().await.unwrap();
        monitor.queues[1].reply(kicked).await.unwrap();
        monitor.queues[2].reply(silent).await.unwrap();
        assert_eq!(monitor.queues[1].used(), round + 1);
        assert_eq!(monitor.queues[2].used(), round);
    }
    // The client is the same, and nothing was done twice.
    assert_eq!(monitor.fs.clients(), (1, 0));
    assert_eq!(monitor.fs.lookups(), 6);
}

#[tokio::test]
async fn indices_pass_the_end_of_a_ring_over_many_pauses() {
    let mut monitor = Monitor::begun(1).await;
    for round in 0..40u16 {
        monitor.queues[1].request(&lookup("name")).await.unwrap();
        assert_eq!(monitor.device.pause().await.unwrap(), [0, round + 2]);
        monitor.device.resume().await.unwrap();
    }
    assert_eq!(monitor.fs.lookups(), 40);
}

#[tokio::test]
async fn a_pause_that_was_given_up_is_called_again() {
    let mut monitor = Monitor::begun(1).await;
    let waits = monitor.queues[1].send(&lookup(WAITS));
    monitor.until_waiting(1).await;
    for _ in 0..3 {
        assert!(timeout(A_WHILE, monitor.device.pause()).await.is_err());
    }
    // The queues stop all the same.
    let later = monitor.queues[1].send(&lookup("name"));
    assert!(monitor.queues[1].waits(later).await);
    monitor.fs.open_gate();
    assert_eq!(monitor.device.pause().await.unwrap(), [0, 2]);
    monitor.device.resume().await.unwrap();
    monitor.queues[1].reply(waits).await.unwrap();
    monitor.queues[1].reply(later).await.unwrap();
}

#[tokio::test]
async fn a_pause_that_waits_for_five_seconds_names_what_does_not_end() {
    let mut monitor = Monitor::begun(1).await;
    let waits = monitor.queues[1].send(&lookup(WAITS));
    monitor.until_waiting(1).await;
    let given_up = vec![(waits, Opcode::Lookup)];
    assert_eq!(monitor.device.pause().await.unwrap_err().requests, given_up);
    assert_eq!(monitor.device.reset().await.unwrap_err().requests, given_up);
    assert_eq!(monitor.fs.clients(), (1, 0), "its client is not forgotten");
    let resumed = monitor.device.resume().await.unwrap_err();
    assert_eq!(resumed.to_string(), format!("requests do not end: lookup {waits}"));
    monitor.fs.open_gate();
    assert_eq!(monitor.device.pause().await.unwrap(), [0, 2]);
    monitor.device.resume().await.unwrap();
    monitor.queues[1].reply(waits).await.unwrap();
}

#[test]
fn a_pause_needs_no_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut monitor = runtime.block_on(Monitor::begun(1));
    assert_eq!(wait_for(monitor.device.pause()).unwrap(), [0, 1]);
    wait_for(monitor.device.resume()).unwrap();
    runtime.block_on(monitor.queues[1].request(&lookup("name"))).unwrap();
}

/// What an executor does that knows no timers.
fn wait_for<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[tokio::test]
async fn a_pause_that_was_given_up_ends_before_the_device_goes_on() {
    let mut monitor = Monitor::begun(1).await;
    let waits = monitor.queues[1].send(&lookup(WAITS));
    monitor.until_waiting(1).await;
    assert!(timeout(A_WHILE, monitor.device.pause()).await.is_err());
    let later = monitor.queues[1].send(&lookup("name"));
    assert!(timeout(A_WHILE, monitor.device.resume()).await.is_err(), "a lookup is in flight");
    monitor.fs.open_gate();
    monitor.device.resume().await.unwrap();
    monitor.queues[1].reply(waits).await.unwrap();
    monitor.queues[1].reply(later).await.unwrap();
}

#[tokio::test]
async fn who_waits_for_a_lock_gets_eintr_at_a_pause() {
    let mut monitor = Monitor::begun(2).await;
    let waiter = monitor.queues[1].send(&wait_for_lock());
    let other = monitor.queues[2].send(&wait_for_lock());
    monitor.until_waiting(2).await;
    assert!(monitor.queues[1].waits(waiter).await);
    assert_eq!(monitor.device.pause().await.unwrap(), [0, 2, 1]);
    assert_eq!(monitor.queues[1].reply(waiter).await.unwrap_err(), Errno::EINTR);
    assert_eq!(monitor.queues[2].reply(other).await.unwrap_err(), Errno::EINTR);
    // A lock that is asked for after that is waited for again.
    monitor.device.resume().await.unwrap();
    let again = monitor.queues[1].send(&wait_for_lock());
    assert!(monitor.queues[1].waits(again).await);
}

#[tokio::test]
async fn a_device_without_a_driver_has_nothing_to_pause() {
    let mut monitor = Monitor::inactive(1).await;
    assert!(monitor.device.pause().await.unwrap().is_empty());
    monitor.device.resume().await.unwrap();
    monitor.device.reset().await.unwrap();
    monitor.activate().await;
    assert_eq!(monitor.device.pause().await.unwrap(), [0, 0]);
}

#[tokio::test]
async fn what_changes_is_marked_in_the_bitmaps_of_the_memory() {
    let mut monitor = Monitor::inactive(1).await;
    let sources = monitor.drive();
    let [(idle, _), (used, answer)] = [0, 1].map(|index| monitor.queues[index].pages());
    monitor.queues[1].offer(&lookup("name"));
    // The driver's own writes are in the bitmap too.
    let before = dirty(&monitor.memory);
    monitor.device.activate(monitor.memory.clone(), FEATURES, sources).await.unwrap();
    until("it is answered", || monitor.queues[1].used() == 1).await;
    let changed: Vec<_> =
        dirty(&monitor.memory).into_iter().filter(|page| !before.contains(page)).collect();
    assert!(changed.contains(&used) && changed.contains(&answer), "{changed:?}");
    // The other queue told from where on it wants to be kicked.
    let known = [used, answer, idle];
    assert!(changed.iter().all(|page| known.contains(page)), "{changed:?}, not only {known:?}");
}

/// The pages that are marked.
fn dirty(memory: &Memory) -> Vec<u64> {
    let region = memory.iter().next().expect("one region");
    let is_dirty = |page: &u64| region.bitmap().dirty_at((page * 4096) as usize);
    (0..region.len() / 4096).filter(is_dirty).collect()
}
