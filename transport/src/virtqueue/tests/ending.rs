//! A queue that is not served any more, and who is told.

use std::time::Duration;

use super::{
    super::{QueueControl, QueueFault, Virtqueue},
    driver::Driver,
};
use crate::transport::Transport;

fn faults_after(end: impl AsyncFnOnce(&QueueControl, Virtqueue)) -> Vec<QueueFault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (driver, queue) = Driver::new(true);
        end(&driver.control, queue).await;
        driver.faults.lock().unwrap().clone()
    })
}

#[test]
fn a_queue_that_its_worker_drops_is_a_fault() {
    assert_eq!(faults_after(async |_, queue| drop(queue)), [QueueFault::Unserved]);
}

#[test]
fn a_queue_whose_worker_panics_is_a_fault_and_tells_where_it_stopped() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut driver, queue) = Driver::new(true);
        let served = tokio::task::LocalSet::new();
        let panics = served.spawn_local(async move {
            let _queue = queue;
            panic!("in the loop");
        });
        served.await;
        panics.await.unwrap_err();
        assert_eq!(*driver.faults.lock().unwrap(), [QueueFault::Unserved]);
        assert_eq!(driver.control.stopped().await.unwrap().next, 0);
    });
}

#[test]
fn a_queue_that_was_stopped_is_none() {
    let stopped = async |control: &QueueControl, mut queue: Virtqueue| {
        control.stop();
        assert!(queue.recv().await.unwrap().is_none());
    };
    assert_eq!(faults_after(stopped), []);
}

#[test]
fn a_queue_that_nobody_begins_to_serve_is_a_fault() {
    let (driver, prepared) = Driver::prepared(true, Duration::ZERO);
    drop(prepared);
    assert_eq!(*driver.faults.lock().unwrap(), [QueueFault::Unserved]);
}

#[test]
fn nobody_is_told_of_a_queue_that_its_owner_dropped_first() {
    let (Driver { control, faults, .. }, prepared) = Driver::prepared(true, Duration::ZERO);
    drop((control, prepared));
    assert_eq!(*faults.lock().unwrap(), []);
}
