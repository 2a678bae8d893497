//! A directory or an image at a mount point.

use std::{
    io,
    path::Path,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use fsrv::{FileSystem, Limits, Session, layer::ReadOnly};
use fsrv_passthrough::prepare_worker;
use fsrv_transport::{
    fuse_dev::{Device, FuseTransport, Mount, MountOptions, mount},
    io::{self as file_io, Engine},
    mem::Pool,
    worker::Worker,
};
use rustix::process::geteuid;
use tokio::{
    runtime::Runtime,
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
    time::timeout,
};

use super::{
    Prepared,
    directory::{self, Directory},
    image::{self, Image},
};
use crate::{
    args::{AllowOther, Serve},
    containment::{self, Later, Serving},
    limits::Need,
    mount_program::Background,
    report,
    share::Share,
    shutdown,
    signals::Signals,
};

/// How long workers may take to end when their mount is gone. A request that never completes must
/// not keep the process.
const JOIN_LIMIT: Duration = Duration::from_secs(3);

/// The same when clients were waited for before.
const JOIN_LIMIT_DETACHED: Duration = Duration::from_millis(300);

/// Serves until the mount is gone.
pub(super) fn serve(args: &Serve, point: &Path) -> Result<()> {
    let background = args.background.then(Background::begin).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start")?;
    let result = match (&args.dir, &args.image) {
        (Some(dir), _) => serve_directory(&runtime, args, dir, point, background),
        (None, Some(path)) => serve_image(&runtime, args, path, point, background),
        (None, None) => bail!("nothing to serve was given"),
    };
    runtime.shutdown_background();
    result
}

fn serve_directory(
    runtime: &Runtime,
    args: &Serve,
    dir: &Path,
    point: &Path,
    background: Option<Background>,
) -> Result<()> {
    let share = Share::open(dir)?;
    share.refuse_overlap(point)?;
    let manner = directory::manner(args);
    let prepared = Prepared::new(args, &share.path, manner, directory::need(args))?;
    let mut options = mount_options(&share.path, args);
    if args.readonly {
        options.set("ro");
    }
    let fs = Directory::new(args, share, prepared.descriptors.limit).filesystem()?;
    let serving = Serving::Directory;
    let server = Server { prepared, point, options, background, prepare_worker, serving };
    if args.readonly {
        runtime.block_on(server.serve(ReadOnly(fs)))
    } else {
        runtime.block_on(server.serve(fs))
    }
}

fn serve_image(
    runtime: &Runtime,
    args: &Serve,
    path: &Path,
    point: &Path,
    background: Option<Background>,
) -> Result<()> {
    let image = runtime.block_on(Image::open(args, path, allows_other(args)))?;
    image::prepare_process();
    let prepared = Prepared::new(args, path, image.manner(args), Need::OpenFiles)?;
    let options = mount_options(path, args).over_file();
    let serving = Serving::Image;
    let server =
        Server { prepared, point, options, background, prepare_worker: || Ok(()), serving };
    let served = runtime.block_on(server.serve(image.filesystem()));
    // Also after a failure: what was written before it is the client's.
    served.and(runtime.block_on(image.close()))
}

struct Server<'a> {
    prepared: Prepared,
    point: &'a Path,
    options: MountOptions,
    background: Option<Background>,
    prepare_worker: fn() -> io::Result<()>,
    serving: Serving,
}

impl Server<'_> {
    async fn serve<F: FileSystem + 'static>(self, fs: F) -> Result<()> {
        // From here on a signal must not leave a mount behind.
        let signals = Signals::catch().context("cannot catch signals")?;
        let (mount, device) = mount(self.point, &self.options)?;
        self.run(fs, Arc::new(mount), device, signals).await
    }

    async fn run<F: FileSystem + 'static>(
        mut self,
        fs: F,
        mount: Arc<Mount>,
        device: Device,
        mut signals: Signals,
    ) -> Result<()> {
        let later = if mount.needs_program() { Later::RunUnmount } else { Later::Unmount };
        let clones = self.clones(device)?;
        let contained = containment::apply(self.serving, later)?;
        let manner = self.prepared.manner(clones.len());
        let what = format!("{} at {}", self.prepared.path.display(), mount.path().display());
        let (began, mut begun) = unbounded_channel();
        let session = Session::new(fs, Limits::default()).on_begin(move |init| {
            let minor = init.minor();
            report::say(format_args!("serving {what}: fuse 7.{minor}, {manner}; {contained}"));
            // Nobody waits for a second beginning.
            let _ = began.send(());
        });
        let engine = self.prepared.engine.engine;
        // It has to be there when the mount is to go.
        let threads = file_io::Pool::ready(shutdown::THREADS).context("cannot start")?;
        let mut workers = Workers::start(session, clones, engine, self.prepare_worker)?;
        self.prepared.log();
        workers.serve();
        tokio::select! {
            biased;
            _ = begun.recv() => if let Some(background) = self.background.take() {
                background.mounted()?;
            },
            () = workers.one_ended() => {}
            () = signals.next() => return stop(workers, &mount, &threads, &mut signals).await,
        }
        tokio::select! {
            () = workers.one_ended() => {}
            () = signals.next() => {}
        }
        stop(workers, &mount, &threads, &mut signals).await
    }

    /// A descriptor for each worker, all of them opened before anything is served.
    fn clones(&self, device: Device) -> Result<Vec<(usize, Device)>> {
        let mut clones = Vec::new();
        for &cpu in &self.prepared.cpus[1..] {
            clones.push((cpu, device.try_clone().context("cannot clone /dev/fuse")?));
        }
        clones.push((self.prepared.cpus[0], device));
        Ok(clones)
    }
}

/// Unmounts, unless that is done already, and lets the workers end.
async fn stop(
    mut workers: Workers,
    mount: &Arc<Mount>,
    threads: &file_io::Pool,
    signals: &mut Signals,
) -> Result<()> {
    let end = shutdown::unmount(mount, threads, signals)
        .await
        .with_context(|| format!("cannot unmount {}", mount.path().display()))?;
    let limit = match end {
        shutdown::End::Unmounted => JOIN_LIMIT,
        shutdown::End::Detached => JOIN_LIMIT_DETACHED,
    };
    match timeout(limit, workers.all_ended()).await {
        Ok(()) => workers.join(),
        Err(_) => {
            tracing::warn!("a request does not end; it is abandoned");
            Ok(())
        }
    }
}

/// The threads that serve.
struct Workers {
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// One message from each that ended.
    ended: UnboundedReceiver<()>,
    /// What they wait for before they serve. Without it they end.
    go: watch::Sender<()>,
}

impl Workers {
    /// Starts a worker for each of `devices`. They wait for [`Workers::serve`].
    ///
    /// # Errors
    /// Why one of them cannot serve.
    fn start<F: FileSystem + 'static>(
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
        Ok(Self { threads, ended, go })
    }

    fn serve(&self) {
        // Those that ended say why when they are joined.
        let _ = self.go.send(());
    }

    /// # Cancel safety
    /// Cancel safe.
    async fn one_ended(&mut self) {
        self.ended.recv().await;
    }

    async fn all_ended(&mut self) {
        while self.ended.recv().await.is_some() {}
    }

    /// # Errors
    /// Why the first worker that failed did so.
    fn join(self) -> Result<()> {
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
        // Whoever started the workers may be gone.
        let _ = self.0.send(());
    }
}

fn allows_other(args: &Serve) -> bool {
    match args.allow_other {
        AllowOther::On => true,
        AllowOther::Off => false,
        AllowOther::Auto => geteuid().is_root(),
    }
}

fn mount_options(source: &Path, args: &Serve) -> MountOptions {
    let mut options = MountOptions::new(source).allow_other(allows_other(args));
    for word in &args.mount_options {
        options.set(word);
    }
    options
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicBool, Ordering},
        thread,
        time::Instant,
    };

    use fsrv::{Attr, Attributes, Context as Request, abi::fuse_out_header, op::GetAttr};
    use fsrv_transport::Transport;
    use rustix::process::{Signal, getpid, kill_process};
    use tokio::task::spawn_blocking;
    use zerocopy::IntoBytes;

    use super::*;

    /// Never answers.
    struct Stuck;

    impl FileSystem for Stuck {
        async fn getattr(&self, _: &Request, _: GetAttr) -> fsrv::Result<Attributes> {
            std::future::pending().await
        }
    }

    /// Answers only what it is asked again.
    #[derive(Default)]
    struct Deaf(AtomicBool);

    impl FileSystem for Deaf {
        async fn getattr(&self, _: &Request, _: GetAttr) -> fsrv::Result<Attributes> {
            if !self.0.swap(true, Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let attr = Attr { ino: 1, mode: Attr::DIRECTORY | 0o755, nlink: 2, ..Attr::default() };
            Ok(Attributes { attr, ttl: Duration::ZERO })
        }
    }

    #[test]
    fn the_kernel_takes_the_answer_to_a_request_that_it_sent_again() {
        /// `FUSE_NOTIFY_RESEND`: the kernel sends again what was not answered (6.9).
        const RESEND: i32 = 7;
        let dir = tempfile::tempdir().unwrap();
        let (mount, device) = mount(dir.path(), &MountOptions::new("test")).expect("a mount");
        let mount = Arc::new(mount);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut signals = Signals::catch().unwrap();
            let session = Session::new(Deaf::default(), Limits::default());
            let other = device.try_clone().unwrap();
            let other = FuseTransport::new(other, session.transport_config(), Pool::new()).unwrap();
            let workers =
                Workers::start(session, vec![(0, device)], Engine::Threads, prepare_worker)
                    .unwrap();
            let path = dir.path().to_owned();
            let client = spawn_blocking(move || fs::metadata(path));
            let again = fuse_out_header { len: 16, error: RESEND, unique: 0 };
            let notifier = other.notifier().unwrap();
            let mut sent_again = tokio::time::interval(Duration::from_millis(200));
            let mut client = std::pin::pin!(client);
            let found = loop {
                tokio::select! {
                    found = &mut client => break found.unwrap(),
                    _ = sent_again.tick() => notifier.notify(&[again.as_bytes()]).unwrap(),
                }
            };
            assert!(found.unwrap().is_dir());
            // The one that is never answered keeps its worker.
            kill_process(getpid(), Signal::TERM).unwrap();
            stop(workers, &mount, &mut signals).await.unwrap();
        });
    }

    #[test]
    fn a_request_that_never_ends_does_not_keep_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let (mount, device) = mount(dir.path(), &MountOptions::new("test")).expect("a mount");
        let mount = Arc::new(mount);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut signals = Signals::catch().unwrap();
            let threads = file_io::Pool::ready(shutdown::THREADS).unwrap();
            let session = Session::new(Stuck, Limits::default());
            let workers =
                Workers::start(session, vec![(0, device)], Engine::Threads, prepare_worker)
                    .unwrap();
            workers.serve();
            let client = thread::spawn({
                let path = dir.path().to_owned();
                move || fs::metadata(path)
            });
            tokio::time::sleep(Duration::from_millis(100)).await;
            // The second signal, so that the test need not wait for the first one's patience.
            kill_process(getpid(), Signal::TERM).unwrap();
            let start = Instant::now();
            stop(workers, &mount, &threads, &mut signals).await.unwrap();
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
            client.join().unwrap().expect_err("the mount is gone");
        });
    }
}
