//! Serves a directory at a mount point, one worker a CPU, until the mount is removed:
//! `cargo run --release --example mount -- DIR MOUNTPOINT`, then `umount MOUNTPOINT`.

use std::{error::Error, path::Path, sync::Arc};

use fsrv::{Limits, Session, serve};
use fsrv_passthrough::{Config, Passthrough, prepare_worker};
use fsrv_transport::{
    fuse_dev::{FuseTransport, MountOptions, mount},
    io::Engine,
    mem::Pool,
    worker::{self, Worker},
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, mountpoint] = args.as_slice() else {
        return Err("usage: mount DIR MOUNTPOINT".into());
    };
    // Opened before mounting: the mount may hide it.
    let root = std::fs::File::open(dir)?;
    let fs =
        Passthrough::new(root.into(), Config { max_descriptors: 10_000, ..Config::default() })?;
    let session = Arc::new(Session::new(fs, Limits::default()));
    let engine = if worker::probe_ring().is_ok() { Engine::Uring } else { Engine::Threads };

    let (_mount, device) = mount(Path::new(mountpoint), &MountOptions::new(dir.as_str()))?;
    let mut workers = Vec::new();
    for cpu in worker::cpus()? {
        let device = device.try_clone()?;
        let session = session.clone();
        let worker = Worker { name: format!("fsrv-{cpu}"), cpu: Some(cpu), engine };
        workers.push(worker.spawn(prepare_worker, move || async move {
            let config = session.transport_config();
            let transport = FuseTransport::new(device, config, Pool::new())?;
            serve(transport, &session).await
        })?);
    }
    drop(device);
    for worker in workers {
        worker.join().map_err(|_| "a worker panicked")??;
    }
    println!("{:#?}", session.stats());
    Ok(())
}
