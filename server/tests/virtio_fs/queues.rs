//! What queues have to do with each other.

use fsrv::Errno;

use crate::{
    driver::A_WHILE,
    gated::{BLOCKS, PANICS, WAITS},
    monitor::{Monitor, destroy, forget, init, lookup, open, until, wait_for_lock},
};

#[tokio::test]
async fn a_forget_does_not_wait_for_a_request_queue_whose_thread_is_blocked() {
    let mut monitor = Monitor::begun(1).await;
    monitor.queues[1].request(&lookup("name")).await.unwrap();
    let blocks = monitor.queues[1].send(&lookup(BLOCKS));
    monitor.until_waiting(1).await;
    let behind = monitor.queues[1].send(&lookup("name"));
    monitor.queues[0].tell(&forget(1));
    until("it is forgotten", || monitor.fs.lookups() == 0).await;
    until("the chain comes back", || monitor.queues[0].used() == 1).await;
    assert!(monitor.queues[1].waits(behind).await);
    monitor.fs.open_gate();
    monitor.queues[1].reply(blocks).await.unwrap();
    monitor.queues[1].reply(behind).await.unwrap();
}

#[tokio::test]
async fn another_init_waits_for_every_request_of_every_queue() {
    ends_the_client_after_its_last_request(init()).await;
}

#[tokio::test]
async fn destroy_waits_for_every_request_of_every_queue() {
    ends_the_client_after_its_last_request(destroy()).await;
}

async fn ends_the_client_after_its_last_request(call: fsrv::testing::Call) {
    let mut monitor = Monitor::begun(2).await;
    monitor.queues[1].request(&lookup("name")).await.unwrap();
    monitor.queues[1].request(&open()).await.unwrap();
    let waits = monitor.queues[2].send(&lookup(WAITS));
    let for_a_lock = monitor.queues[2].send(&wait_for_lock());
    monitor.until_waiting(2).await;

    let end = monitor.queues[1].send(&call);
    let waited = monitor.queues[2].reply(for_a_lock).await;
    assert_eq!(waited.unwrap_err(), Errno::EINTR, "nobody will unlock it");
    assert!(monitor.queues[1].waits(end).await);
    assert_eq!(monitor.fs.clients(), (1, 0), "one of its requests is still being done");
    // Between two clients there is none, on any queue.
    let between = monitor.queues[2].request(&lookup("name")).await;
    assert_eq!(between.unwrap_err(), Errno::EIO);

    monitor.fs.open_gate();
    monitor.queues[1].reply(end).await.unwrap();
    monitor.queues[2].reply(waits).await.unwrap();
    assert_eq!(monitor.fs.clients().1, 1);
    let held = monitor.device.stats().held;
    assert_eq!((held.lookups, held.handles), (0, 0), "what it held went with it");
    if monitor.fs.clients().0 == 1 {
        monitor.queues[2].request(&init()).await.unwrap();
    }
    monitor.queues[1].request(&lookup("name")).await.unwrap();
    assert_eq!(monitor.fs.clients(), (2, 1));
}

#[tokio::test]
async fn a_filesystem_that_panics_answers_eio_and_the_queue_goes_on() {
    let mut monitor = Monitor::begun(1).await;
    let panics = monitor.queues[1].send(&lookup(PANICS));
    monitor.until_waiting(1).await;
    monitor.fs.open_gate();
    assert_eq!(monitor.queues[1].reply(panics).await.unwrap_err(), Errno::EIO);
    let at_once = monitor.queues[1].request(&lookup(PANICS)).await;
    assert_eq!(at_once.unwrap_err(), Errno::EIO);
    monitor.queues[1].request(&lookup("name")).await.unwrap();
    assert_eq!(monitor.device.pause().await.unwrap(), [0, 4]);
    assert_eq!(monitor.device.stats().in_flight, 0);
}

#[tokio::test]
async fn a_queue_goes_on_while_another_ones_request_waits() {
    let mut monitor = Monitor::begun(2).await;
    let waits = monitor.queues[1].send(&lookup(WAITS));
    monitor.until_waiting(1).await;
    for _ in 0..50 {
        monitor.queues[2].request(&lookup("name")).await.unwrap();
        monitor.queues[1].request(&lookup("name")).await.unwrap();
    }
    tokio::time::sleep(A_WHILE).await;
    assert!(monitor.queues[1].waits(waits).await);
    monitor.fs.open_gate();
    monitor.queues[1].reply(waits).await.unwrap();
}
