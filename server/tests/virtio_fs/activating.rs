//! Which drivers are served, and what they read first.

use fsrv::{
    Errno,
    virtio_fs::{ActivateError, FEATURES, VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX},
};
use fsrv_transport::virtqueue::{QueueError, Source};
use rustix::event::{EventfdFlags, eventfd};

use crate::{
    driver::{MEMORY, SIZE, queue},
    monitor::{Monitor, init, lookup},
};

/// Activates with what is no activation, and says what came of it.
async fn refused(monitor: &mut Monitor, features: u64, sources: Vec<Source>) -> ActivateError {
    let activated = monitor.device.activate(monitor.memory.clone(), features, sources).await;
    activated.expect_err("it is refused")
}

/// A queue that nobody drives.
fn idle(base: u64) -> Source {
    Source::new(&queue(base, SIZE), eventfd(0, EventfdFlags::CLOEXEC).unwrap(), || {})
}

#[tokio::test]
async fn features_that_were_not_offered_or_are_missing_are_refused() {
    let mut monitor = Monitor::inactive(1).await;
    for features in [0, FEATURES & !VIRTIO_F_VERSION_1, FEATURES | 1 << 34, u64::MAX] {
        let sources = monitor.drive();
        let error = refused(&mut monitor, features, sources).await;
        assert!(matches!(error, ActivateError::Features(told) if told == features), "{error:?}");
    }
    monitor.activate().await;
    monitor.queues[1].request(&init()).await.unwrap();
}

#[tokio::test]
async fn the_number_of_queues_has_to_be_right() {
    let mut monitor = Monitor::inactive(2).await;
    for given in [0, 1, 2, 4] {
        let sources = (0..given).map(|_| idle(0)).collect();
        let error = refused(&mut monitor, FEATURES, sources).await;
        assert_eq!(error.to_string(), format!("the device has 3 queues, and was given {given}"));
    }
    monitor.activate().await;
    monitor.queues[2].request(&init()).await.unwrap();
}

#[tokio::test]
async fn a_ring_outside_memory_is_refused_and_nothing_is_served() {
    let mut monitor = Monitor::inactive(1).await;
    for (base, why) in [
        (MEMORY as u64, QueueError::Outside(MEMORY as u64)),
        // Its used ring alone.
        (MEMORY as u64 - 0x1000, QueueError::Outside(MEMORY as u64)),
        (!0xffff, QueueError::Outside(!0xffff)),
    ] {
        let mut sources = monitor.drive();
        // What is there already would be taken by a queue that is served.
        monitor.queues[0].tell(&init());
        sources[1] = idle(base);
        let error = refused(&mut monitor, FEATURES, sources).await;
        let ActivateError::Queue { index: 1, source } = error else { panic!("{error:?}") };
        assert_eq!(source, why);
        tokio::time::sleep(crate::driver::A_WHILE).await;
        assert_eq!(monitor.queues[0].used(), 0);
    }
    monitor.activate().await;
    monitor.queues[1].request(&init()).await.unwrap();
}

#[tokio::test]
async fn an_active_device_is_not_activated_again() {
    let mut monitor = Monitor::begun(1).await;
    for pause in [false, true] {
        if pause {
            monitor.device.pause().await.unwrap();
        }
        let error = refused(&mut monitor, FEATURES, vec![idle(0), idle(0)]).await;
        assert!(matches!(error, ActivateError::Active), "{error:?}");
    }
    monitor.device.resume().await.unwrap();
    monitor.queues[1].request(&lookup("name")).await.unwrap();
}

#[tokio::test]
async fn a_driver_may_do_without_what_is_optional() {
    for features in [VIRTIO_F_VERSION_1, VIRTIO_F_VERSION_1 | VIRTIO_RING_F_EVENT_IDX] {
        let mut monitor = Monitor::inactive(1).await;
        let sources = monitor.drive();
        monitor.device.activate(monitor.memory.clone(), features, sources).await.unwrap();
        let early = monitor.queues[1].request(&lookup("name")).await;
        assert_eq!(early.unwrap_err(), Errno::EIO, "nothing before INIT");
        monitor.queues[1].request(&init()).await.unwrap();
        for _ in 0..100 {
            monitor.queues[1].request(&lookup("name")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_configuration_space_has_tag_and_queues_and_then_nothing() {
    let device = Monitor::inactive(3).await.device;
    assert_eq!(device.queue_count(), 4);
    let mut all = [9; 64];
    device.read_config(0, &mut all);
    let mut expected = [0; 64];
    expected[..5].copy_from_slice(b"share");
    expected[36] = 3;
    assert_eq!(all, expected);

    // A guest reads it in parts of any size, at any place.
    for at in 0..all.len() {
        for len in [0, 1, 2, 4, 8] {
            let mut part = vec![9; len];
            device.read_config(at as u64, &mut part);
            let behind = expected.iter().copied().chain([0; 8]);
            assert_eq!(part, behind.skip(at).take(len).collect::<Vec<_>>());
        }
    }
    let mut far = [9; 8];
    device.read_config(u64::MAX, &mut far);
    assert_eq!(far, [0; 8]);
}
