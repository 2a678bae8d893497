//! The device as a guest in somebody else's process.

use std::{env, fs};

use crate::monitor::{Monitor, lookup};

/// What a library must leave alone: handlers and masks of signals, the umask, limits, the working directory.
fn process() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ours = ["SigBlk:", "SigIgn:", "SigCgt:", "Umask:", "Cap", "NoNewPrivs:"];
    let lines = status.lines().filter(|line| ours.iter().any(|name| line.starts_with(name)));
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let directory = env::current_dir().unwrap();
    format!("{}\n{limits}{}", lines.collect::<Vec<_>>().join("\n"), directory.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_changes_nothing_of_the_process() {
    let before = process();
    let mut monitor = Monitor::begun(2).await;
    monitor.queues[2].request(&lookup("name")).await.unwrap();
    assert_eq!(process(), before);
    monitor.device.reset().await.unwrap();
    drop(monitor);
    assert_eq!(process(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_devices_do_not_meet() {
    let guests = (1..=4u16).map(|number| {
        tokio::spawn(async move {
            let mut monitor = Monitor::begun(1 + number % 2).await;
            for round in 0..20 {
                for _ in 0..number {
                    monitor.queues[1].request(&lookup("name")).await.unwrap();
                }
                if round % 5 == 0 {
                    monitor.device.pause().await.unwrap();
                    monitor.device.resume().await.unwrap();
                }
            }
            assert_eq!(monitor.device.stats().held.lookups, u64::from(number) * 20);
            monitor
        })
    });
    let guests: Vec<_> = guests.collect();
    for (guest, number) in guests.into_iter().zip(1u64..) {
        let mut monitor = guest.await.unwrap();
        assert_eq!(monitor.device.stats().requests_for("lookup"), number * 20);
        monitor.device.reset().await.unwrap();
        assert_eq!(monitor.fs.clients(), (1, 1));
    }
}

/// Whatever thread of the runtime has it, and moves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_moves_between_the_threads_of_a_runtime() {
    let mut monitor = Monitor::begun(1).await;
    for round in 0..20 {
        monitor = tokio::spawn(async move {
            let waits = monitor.queues[1].offer(&lookup("name"));
            let (indices, ()) =
                tokio::join!(monitor.device.pause(), async { monitor.queues[1].kick() });
            let indices = indices.unwrap();
            monitor.device.resume().await.unwrap();
            monitor.queues[1].reply(waits).await.unwrap();
            assert!([round + 1, round + 2].contains(&indices[1]), "{indices:?}");
            monitor
        })
        .await
        .unwrap();
    }
    assert_eq!(monitor.fs.lookups(), 20);
}
