//! A device whose workers have ended.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use fsrv_transport::{
    io::Engine,
    virtio_queue::{Queue, QueueT},
    virtqueue::{QueueFault, Source},
    vm_memory::{GuestAddress, GuestMemoryMmap},
};
use rustix::event::{EventfdFlags, eventfd};

use super::{FEATURES, Options, Tag, VirtioFs, Workers};
use crate::fs::FileSystem;

struct Empty;

impl FileSystem for Empty {}

/// What is told at all is told within this time.
const SOON: Duration = Duration::from_secs(20);

/// An empty ring at `base`.
fn ring(base: u64) -> Source {
    let mut queue = Queue::new(8).unwrap();
    queue.set_size(8);
    queue.try_set_desc_table_address(GuestAddress(base)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(base + 0x400)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(base + 0x800)).unwrap();
    queue.set_ready(true);
    Source::new(&queue, eventfd(0, EventfdFlags::CLOEXEC).unwrap(), || {})
}

#[tokio::test]
async fn a_monitor_is_told_of_queues_whose_worker_has_ended() {
    let workers = Workers { count: 1, engine: Engine::Threads, prepare: || Ok(()) };
    let tag = Tag::new("share").unwrap();
    let options = Options { tag, request_queues: 2, workers, poll: Duration::ZERO };
    let (told, hook) = mpsc::channel();
    let device = VirtioFs::new(Empty, options).await.unwrap();
    let mut device = device.on_error(move |queue, fault| told.send((queue, fault)).unwrap());
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 16)]);
    let memory = Arc::new(memory.unwrap());
    let rings = || Vec::from([0x1000, 0x2000, 0x3000].map(ring));
    let both = || {
        let mut both = [(); 2].map(|()| {
            let (queue, fault) = hook.recv_timeout(SOON).unwrap();
            assert_eq!(fault, QueueFault::Unserved);
            queue
        });
        both.sort();
        both
    };

    device.activate(memory.clone(), FEATURES, rings()).await.unwrap();
    device.queues.end_request_workers();
    assert_eq!(both(), [1, 2]);
    device.reset().await.unwrap();

    // Nor do others find somebody.
    device.activate(memory, FEATURES, rings()).await.unwrap();
    assert_eq!(both(), [1, 2]);
    device.reset().await.unwrap();
    assert!(hook.try_recv().is_err());
}
