//! The threads that serve a mount point.

use std::{
    io,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow, bail};
use fsrv::{FileSystem, Session};
use fsrv_transport::{
    fuse_dev::{Device, FuseTransport},
    io::Engine,
    mem::Pool,
    worker::Worker,
};
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    watch,
};

/// The threads that serve.
pub(super) struct Workers {
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// One message from each that ended.
    ended: UnboundedReceiver<()>,
    /// What they wait for before they serve. Without it they end.
    go: watch::Sender<()>,
    in_flight: Box<dyn Fn() -> Vec<String>>,
}

impl Workers {
    /// Starts a worker for each of `devices`. They wait for [`Workers::serve`].
    ///
    /// # Errors
    /// Why one of them cannot serve.
    pub(super) fn start<F: FileSystem + 'static>(
        session: Session<F>,
        devices: Vec<(usize, Device)>,
        engine: Engine,
        prepare: fn() -> io::Result<()>,
    ) -> Result<Self> {
        let session = Arc::new(session);
        let (sender, ended) = unbounded_channel();
        let (began, begun) = mpsc::channel();
        let (go, going) = watch::channel(());
        let mut threads = Vec::new();
        for (index, (cpu, device)) in devices.into_iter().enumerate() {
            let (session, end) = (session.clone(), End(sender.clone()));
            let (began, mut going) = (began.clone(), going.clone());
            let worker = Worker { name: format!("fsrv-{index}"), cpu: Some(cpu), engine };
            let main = move || async move {
                let _end = end;
                let told = began.send(());
                drop(began);
                if told.is_err() || going.changed().await.is_err() {
                    // Another one cannot.
                    return Ok(());
                }
                let config = session.transport_config();
                let transport = FuseTransport::new(device, config, Pool::new())?;
                fsrv::serve(transport, &*session).await
            };
            threads.push(worker.spawn(prepare, main).context("cannot start a worker")?);
        }
        drop(began);
        if threads.iter().any(|_| begun.recv().is_err()) {
            drop(go);
            join(threads, "cannot start a worker")?;
            bail!("a worker ended at once");
        }
        let in_flight = move || {
            let requests = session.in_flight().into_iter();
            requests.map(|(unique, opcode)| format!("{} {unique}", opcode.name())).collect()
        };
        Ok(Self { threads, ended, go, in_flight: Box::new(in_flight) })
    }

    pub(super) fn serve(&self) {
        // Those that ended say why when they are joined.
        let _ = self.go.send(());
    }

    /// What they are doing: operations, with the numbers of their requests.
    pub(super) fn in_flight(&self) -> Vec<String> {
        (self.in_flight)()
    }

    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn one_ended(&mut self) {
        self.ended.recv().await;
    }

    pub(super) async fn all_ended(&mut self) {
        while self.ended.recv().await.is_some() {}
    }

    /// Leaves those alone that have not ended.
    ///
    /// # Errors
    /// As [`Workers::join`].
    pub(super) fn join_ended(mut self) -> Result<()> {
        self.threads.retain(JoinHandle::is_finished);
        self.join()
    }

    /// # Errors
    /// Why the first worker that failed did so.
    pub(super) fn join(self) -> Result<()> {
        join(self.threads, "a worker failed")
    }
}

fn join(threads: Vec<JoinHandle<io::Result<()>>>, failed: &'static str) -> Result<()> {
    for thread in threads {
        let result = thread.join().map_err(|_| anyhow!("a worker panicked"))?;
        result.context(failed)?;
    }
    Ok(())
}

/// Tells of the end of a worker, however it comes.
struct End(UnboundedSender<()>);

impl Drop for End {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("a worker panicked: the mount ends");
        }
        // Whoever started the workers may be gone.
        let _ = self.0.send(());
    }
}
