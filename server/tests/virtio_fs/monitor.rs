//! A monitor with one device and one guest.

use std::{sync::Arc, time::Duration};

use fsrv::{
    NodeId, abi,
    testing::{Call, ask},
    virtio_fs::{Options, Tag, VirtioFs, Workers},
};
use fsrv_transport::{io::Engine, virtqueue::Source, vm_memory::GuestAddress};
use tokio::time::timeout;

use crate::{
    driver::{Driver, MEMORY, Memory, SOON},
    gated::Gated,
};

pub(crate) struct Monitor {
    pub(crate) device: VirtioFs<Gated>,
    pub(crate) fs: Gated,
    pub(crate) memory: Arc<Memory>,
    /// The high-priority queue, then the request queues.
    pub(crate) queues: Vec<Driver>,
}

impl Monitor {
    /// A device with `request_queues` and as many workers; nobody drives it.
    pub(crate) async fn inactive(request_queues: u16) -> Self {
        let fs = Gated::new();
        let options = Options {
            tag: Tag::new("share").unwrap(),
            request_queues,
            workers: Workers {
                count: request_queues.into(),
                engine: Engine::Threads,
                prepare: || Ok(()),
            },
            poll: Duration::ZERO,
        };
        let device = VirtioFs::new(fs.clone(), options).await.unwrap();
        Self { device, fs, memory: empty(), queues: Vec::new() }
    }

    /// A device with a client that has begun, by the first request queue.
    pub(crate) async fn begun(request_queues: u16) -> Self {
        let mut monitor = Self::inactive(request_queues).await;
        monitor.activate().await;
        monitor.queues[1].request(&init()).await.unwrap();
        monitor
    }

    /// What a driver does that starts from nothing.
    pub(crate) async fn activate(&mut self) {
        let sources = self.drive();
        let features = self.device.features();
        self.device.activate(self.memory.clone(), features, sources).await.unwrap();
    }

    /// New rings for every queue, in new memory.
    pub(crate) fn drive(&mut self) -> Vec<Source> {
        self.memory = empty();
        let queues = (0..self.device.queue_count()).map(|index| Driver::new(&self.memory, index));
        let (queues, sources) = queues.unzip();
        self.queues = queues;
        sources
    }

    /// Waits until `count` requests wait in the filesystem.
    pub(crate) async fn until_waiting(&self, count: u64) {
        until("as many requests wait", || self.fs.waiting() == count).await;
    }
}

fn empty() -> Arc<Memory> {
    Arc::new(Memory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap())
}

/// Waits for something that happens soon.
pub(crate) async fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{what}: it does not happen"));
}

pub(crate) fn init() -> Call {
    let init = abi::fuse_init_in { major: 7, minor: 38, flags: u32::MAX, ..Default::default() };
    ask(26, NodeId(0)).arg(&init)
}

pub(crate) fn destroy() -> Call {
    ask(38, NodeId(0))
}

pub(crate) fn lookup(name: &str) -> Call {
    ask(1, NodeId::ROOT).name(name)
}

pub(crate) fn forget(nlookup: u64) -> Call {
    ask(2, NodeId(2)).arg(&abi::fuse_forget_in { nlookup })
}

pub(crate) fn open() -> Call {
    ask(14, NodeId(2)).arg(&abi::fuse_open_in::default())
}

/// SETLKW of a whole file.
pub(crate) fn wait_for_lock() -> Call {
    let lk = abi::fuse_file_lock { start: 0, end: i64::MAX as u64, r#type: 1, pid: 1 };
    ask(33, NodeId(2)).arg(&abi::fuse_lk_in { owner: 1, lk, ..Default::default() })
}
