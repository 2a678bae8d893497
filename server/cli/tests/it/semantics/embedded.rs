//! A filesystem served by the test itself, whose counters can be read.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use fsrv::{FileSystem, Limits, Session, serve};
use fsrv_passthrough::{Config, Passthrough, prepare_worker};
use fsrv_transport::fuse_dev::{FuseTransport, Mount, MountOptions, mount};
use fsrv_transport::io::Engine;
use fsrv_transport::mem::Pool;
use fsrv_transport::worker::Worker;

/// A mount of this process. It ends when this drops.
pub(crate) struct Embedded<F> {
    pub(crate) session: Arc<Session<F>>,
    mount: Mount,
    workers: Vec<JoinHandle<io::Result<()>>>,
}

impl<F: FileSystem + 'static> Embedded<F> {
    pub(crate) fn serve(fs: F, mountpoint: &Path, engine: Engine, workers: usize) -> Self {
        let session = Arc::new(Session::new(fs, Limits::default()));
        let options = MountOptions::new("fsrv-test").allow_other(true);
        let (mount, device) = mount(mountpoint, &options).expect("these tests run as root");
        let workers = (0..workers).map(|number| {
            let (device, session) = (device.try_clone().expect("a clone"), session.clone());
            let worker = Worker { name: format!("worker-{number}"), cpu: None, engine };
            let main = move || async move {
                let config = session.transport_config();
                let transport = FuseTransport::new(device, config, Pool::new())?;
                serve(transport, &session).await
            };
            worker.spawn(prepare_worker, main).expect("a thread")
        });
        let workers = workers.collect();
        Self { session, mount, workers }
    }
}

impl Embedded<Passthrough> {
    pub(crate) fn directory(
        dir: &Path,
        mountpoint: &Path,
        config: Config,
        engine: Engine,
        workers: usize,
    ) -> Self {
        let root = File::open(dir).expect("a directory");
        let config = Config { max_descriptors: 10_000, ..config };
        let fs = Passthrough::new(root.into(), config).expect("a filesystem");
        Self::serve(fs, mountpoint, engine, workers)
    }
}

impl<F> Drop for Embedded<F> {
    fn drop(&mut self) {
        // Whoever is in the way after a failure must not keep the mount.
        let _ = self.mount.abort();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}
