//! A virtual machine monitor in small: it has a guest's memory, its queues and its interrupts, and embeds
//! the virtio-fs device. The guest is a thread of this program with a driver of its own.
//! `cargo run --release --example vmm -- [DIR [FILE]]` lets the guest read FILE (`Cargo.toml`) of DIR (`.`).

mod guest;

use std::{error::Error, os::fd::OwnedFd, sync::Arc, time::Duration};

use fsrv::virtio_fs::{Options, Tag, VirtioFs, Workers};
use fsrv_passthrough::{Config, Passthrough, prepare_worker};
use fsrv_transport::{
    io::Engine,
    virtio_queue::{Queue, QueueT},
    virtqueue::Source,
    vm_memory::{GuestAddress, GuestMemoryMmap},
    worker,
};
use rustix::event::{EventfdFlags, eventfd};

use guest::{Guest, QueueLayout};

/// The guest's memory, in bytes.
const MEMORY: usize = 4 << 20;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().unwrap_or_else(|| ".".to_owned());
    let file = args.next().unwrap_or_else(|| "Cargo.toml".to_owned());

    let mut device = device(&dir).await?;
    let mut tag = [0; 36];
    device.read_config(0, &mut tag);
    println!("device: tag {:?}", String::from_utf8_lossy(&tag).trim_end_matches('\0'));

    let memory = Arc::new(GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)])?);
    let mut queues = Vec::new();
    let mut wires = Vec::new();
    for index in 0..device.queue_count() {
        let layout = QueueLayout::of(index);
        let (kick, interrupt) = (event()?, event()?);
        queues.push(source(&layout, &kick, &interrupt)?);
        wires.push((layout, kick, interrupt));
    }
    device.activate(memory.clone(), device.features(), queues).await?;

    // The first request queue is enough for this guest.
    let (layout, kick, interrupt) = wires.swap_remove(1);
    let mut guest = Guest::new(memory, layout, kick, interrupt);
    let (text, guest) = in_guest(move || {
        guest.init()?;
        Ok((guest.read_file(&file)?, guest))
    })
    .await?;
    println!("guest: read {} bytes: {:?}", text.len(), text.lines().next().unwrap_or_default());

    let stopped_at = device.pause().await?;
    println!("device: paused, the next messages are {stopped_at:?}");
    device.resume().await?;
    let names = in_guest(move || {
        let mut guest = guest;
        guest.list_root()
    })
    .await?;
    println!("guest: {} names after the pause, {:?} among them", names.len(), names.last());

    device.reset().await?;
    let held = device.stats().held;
    println!("device: reset; it holds {} inode and {} handles", held.inodes, held.handles);
    Ok(())
}

async fn device(dir: &str) -> Result<VirtioFs<Passthrough>> {
    let root = std::fs::File::open(dir)?;
    let config = Config { max_descriptors: 10_000, ..Config::default() };
    let engine = if worker::probe_ring().is_ok() { Engine::Uring } else { Engine::Threads };
    let options = Options {
        tag: Tag::new("share")?,
        request_queues: 2,
        workers: Workers { count: 2, engine, prepare: prepare_worker },
        poll: Duration::ZERO,
    };
    let device = VirtioFs::new(Passthrough::new(root.into(), config)?, options).await?;
    // A monitor with registers sets DEVICE_NEEDS_RESET there, and interrupts the guest.
    Ok(device.on_error(|queue, fault| eprintln!("device: queue {queue} is not served: {fault:?}")))
}

/// A queue as the guest's driver has configured it through the registers of the device.
fn source(layout: &QueueLayout, kick: &OwnedFd, interrupt: &OwnedFd) -> Result<Source> {
    let mut queue = Queue::new(layout.size)?;
    queue.set_size(layout.size);
    queue.try_set_desc_table_address(GuestAddress(layout.desc))?;
    queue.try_set_avail_ring_address(GuestAddress(layout.avail))?;
    queue.try_set_used_ring_address(GuestAddress(layout.used))?;
    queue.set_ready(true);
    let interrupt = interrupt.try_clone()?;
    Ok(Source::new(&queue, kick.try_clone()?, move || {
        // An eventfd that is full is one that the guest will see.
        let _ = rustix::io::write(&interrupt, &1u64.to_ne_bytes());
    }))
}

/// Runs what a guest does, which waits for its device.
async fn in_guest<T: Send + 'static>(
    run: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(run).await?
}

fn event() -> Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC)?)
}
