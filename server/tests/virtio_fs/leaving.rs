//! How a client, and a device, end.

use std::{sync::Arc, thread};

use crate::{
    gated::WAITS,
    monitor::{Monitor, init, lookup, open, until, wait_for_lock},
};
use fsrv::Errno;

#[tokio::test]
async fn a_reset_forgets_the_client() {
    let mut monitor = Monitor::begun(1).await;
    monitor.queues[1].request(&lookup("name")).await.unwrap();
    monitor.queues[1].request(&open()).await.unwrap();
    let waiter = monitor.queues[1].send(&wait_for_lock());
    monitor.until_waiting(1).await;
    let held = monitor.device.stats().held;
    assert_eq!((held.lookups, held.handles), (1, 1));

    monitor.device.reset().await.unwrap();
    let stats = monitor.device.stats();
    assert_eq!((stats.held.lookups, stats.held.handles, stats.in_flight), (0, 0, 0));
    assert_eq!(stats.requests_for("open"), 1, "what was done stays counted: {stats:?}");
    assert_eq!(monitor.fs.clients(), (1, 1));
    assert_eq!(monitor.queues[1].reply(waiter).await.unwrap_err(), Errno::EINTR);

    // Another driver, in other memory, is another client.
    monitor.activate().await;
    let early = monitor.queues[1].request(&lookup("name")).await;
    assert_eq!(early.unwrap_err(), Errno::EIO);
    monitor.queues[1].request(&init()).await.unwrap();
    monitor.queues[1].request(&lookup("name")).await.unwrap();
    assert_eq!(monitor.fs.clients(), (2, 1));
}

#[tokio::test]
async fn a_reset_ends_a_client_once() {
    let mut monitor = Monitor::begun(1).await;
    monitor.device.pause().await.unwrap();
    monitor.device.reset().await.unwrap();
    monitor.device.reset().await.unwrap();
    assert_eq!(monitor.fs.clients(), (1, 1));
}

#[tokio::test]
async fn a_device_that_is_dropped_keeps_the_memory_until_its_last_request_ends() {
    let Monitor { device, fs, memory, mut queues } = Monitor::begun(2).await;
    queues[1].send(&lookup(WAITS));
    queues[2].send(&wait_for_lock());
    until("both wait", || fs.waiting() == 2).await;
    let rest = Arc::downgrade(&memory);
    drop((memory, queues, device));
    // Nobody answers the lock's waiter any more; the lookup is still being done.
    until("the waiter ends", || fs.waiting() == 1).await;
    assert!(rest.upgrade().is_some());
    fs.open_gate();
    until("the memory is free", || rest.upgrade().is_none()).await;
    until("the filesystem is free", || fs.holders() == 1).await;
}

#[test]
fn a_device_is_dropped_outside_of_its_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Monitor { device, fs, memory, mut queues } = runtime.block_on(async {
        let mut monitor = Monitor::begun(1).await;
        monitor.queues[1].send(&lookup(WAITS));
        monitor.until_waiting(1).await;
        monitor
    });
    drop(runtime);
    thread::spawn(|| drop(device)).join().unwrap();
    fs.open_gate();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(until("the device lets go", || Arc::strong_count(&memory) == 3));
    runtime.block_on(until("it has ended", || fs.holders() == 1));
    assert_eq!(queues.remove(1).used(), 2, "what was in flight is answered");
}
