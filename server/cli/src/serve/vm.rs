//! A directory or an image as a virtio-fs device, for front-ends one after the other.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use fsrv::{
    FileSystem, Limits, Session,
    layer::ReadOnly,
    virtio_fs::{ConfigSpace, Queues, VhostUserFs, Workers},
};
use fsrv_passthrough::prepare_worker;
use fsrv_transport::{
    io::start_thread,
    mem::survive_truncation,
    vhost_user::{Closer, Device, Error, FrontEnd, Listener, serve_front_end},
};
use tokio::{runtime::Runtime, sync::oneshot, time::timeout};

use super::{
    Prepared, count,
    directory::{self, Directory},
    image::{self, Image},
};
use crate::{
    args::Serve,
    containment::{self, Later, Serving},
    group,
    limits::Need,
    report,
    share::Share,
    signals::Signals,
};

/// Request queues unless more are asked for: one has a worker, and more than this rarely have work.
const QUEUES_DEFAULT: usize = 4;

/// How long a front-end that was hung up on may take to end: a request that never completes must not
/// keep the process.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How long to wait when a connection cannot be taken, before it is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Serves until a signal comes, or the only front-end has left.
pub(super) fn serve(args: &Serve) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start")?;
    let result = match (&args.dir, &args.image) {
        (Some(dir), _) => serve_directory(&runtime, args, dir),
        (None, Some(path)) => serve_image(&runtime, args, path),
        (None, None) => bail!("nothing to serve was given"),
    };
    runtime.shutdown_background();
    result
}

/// How many queues a virtual machine gets beside that for what must not wait.
pub(super) fn request_queues(args: &Serve, cpus: usize) -> usize {
    args.queues.map_or(cpus.min(QUEUES_DEFAULT), usize::from)
}

fn serve_directory(runtime: &Runtime, args: &Serve, dir: &Path) -> Result<()> {
    let share = Share::open(dir)?;
    let listener = listener(args)?;
    let manner = directory::manner(args);
    let prepared = Prepared::new(args, &share.path, manner, directory::need(args))?;
    let directory = Directory::new(args, share, prepared.descriptors.for_clients);
    // What is wrong with the directory is said before somebody connects.
    directory.filesystem()?;
    let server = Server { args, prepared, listener, prepare_worker, serving: Serving::Directory };
    if args.readonly {
        runtime.block_on(server.serve(move || directory.filesystem().map(ReadOnly)))
    } else {
        runtime.block_on(server.serve(move || directory.filesystem()))
    }
}

fn serve_image(runtime: &Runtime, args: &Serve, path: &Path) -> Result<()> {
    // The guest's users are all the same to the host.
    let image = Arc::new(runtime.block_on(Image::open(args, path, true))?);
    let listener = listener(args)?;
    image::prepare_process();
    let prepared = Prepared::new(args, path, image.manner(args), Need::OpenFiles)?;
    let serving = Serving::Image;
    let server = Server { args, prepared, listener, prepare_worker: || Ok(()), serving };
    let share = image.clone();
    let served = runtime.block_on(server.serve(move || Ok(share.filesystem())));
    // Also after a failure: what was written before it is the guest's.
    served.and(runtime.block_on(image.close()))
}

fn listener(args: &Serve) -> Result<Listener> {
    let group = args.socket_group.as_deref().map(group::find).transpose()?;
    match (&args.vhost_user, args.fd) {
        (Some(socket), _) => Ok(Listener::bind(socket, group)?),
        (None, Some(number)) => Ok(Listener::inherited(number)?),
        (None, None) => bail!("no socket was given"),
    }
}

struct Server<'a> {
    args: &'a Serve,
    prepared: Prepared,
    listener: Listener,
    prepare_worker: fn() -> io::Result<()>,
    serving: Serving,
}

impl Server<'_> {
    /// Serves what `fs` makes for each front-end, which knows nothing yet.
    async fn serve<F: FileSystem + 'static>(
        self,
        fs: impl Fn() -> Result<F> + Send + 'static,
    ) -> Result<()> {
        let Self { args, prepared, listener, .. } = self;
        survive_truncation().context("cannot handle memory that a front-end truncates")?;
        let mut signals = Signals::catch().context("cannot catch signals")?;
        let contained = containment::apply(self.serving, Later::Serve)?;
        let cpus = prepared.cpus.len();
        let request_queues = request_queues(args, cpus);
        let workers =
            Workers { count: cpus, engine: prepared.engine.engine, prepare: self.prepare_worker };
        let queues = Arc::new(Queues::start(&workers).await.context("cannot start the workers")?);
        let place = match &args.vhost_user {
            Some(socket) => socket.display().to_string(),
            None => format!("the inherited socket {}", args.fd.unwrap_or_default()),
        };
        let config = ConfigSpace { tag: args.tag, request_queues: request_queues as u16 };
        let front_ends = Arc::new(FrontEnds {
            listener,
            queues,
            config,
            poll: Duration::from_micros(args.poll_us),
            is_only_one: args.once || args.fd.is_some(),
            current: Mutex::default(),
        });
        let control = front_ends.clone().start(fs)?;
        prepared.log();
        report::say(format_args!(
            "serving {} at {place}: tag {}, {}, {}; {contained}",
            prepared.path.display(),
            args.tag,
            count(request_queues, "queue"),
            prepared.manner(cpus),
        ));
        let result = until_end(&front_ends, &mut signals, control).await;
        // The control thread may hold the listener when the process exits.
        front_ends.listener.remove();
        result
    }
}

async fn until_end(
    front_ends: &FrontEnds,
    signals: &mut Signals,
    mut control: oneshot::Receiver<Result<()>>,
) -> Result<()> {
    tokio::select! {
        ended = &mut control => return ended.unwrap_or_else(|_| bail!("the control thread panicked")),
        () = signals.next() => {}
    }
    front_ends.end();
    match timeout(END_LIMIT, control).await {
        Ok(ended) => ended.unwrap_or_else(|_| bail!("the control thread panicked")),
        Err(_) => {
            super::abandon(&front_ends.in_flight());
            Ok(())
        }
    }
}

/// How serving a front-end ended.
enum Served {
    ToItsEnd,
    /// Nobody else can be served either.
    Fatally,
}

/// Those who connect, one after the other.
struct FrontEnds {
    listener: Listener,
    queues: Arc<Queues>,
    config: ConfigSpace,
    poll: Duration,
    is_only_one: bool,
    /// What hangs up on the one that is served, and what it is served by.
    current: Mutex<Option<(Closer, Arc<dyn Device>)>>,
}

impl FrontEnds {
    /// Starts the thread that talks to them. Each gets a file system that knows nothing yet.
    fn start<F: FileSystem + 'static>(
        self: Arc<Self>,
        fs: impl Fn() -> Result<F> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<()>>> {
        let (ended, end) = oneshot::channel();
        let control = move || {
            // The main thread may have given up.
            let _ = ended.send(self.serve_all(fs));
        };
        start_thread("fsrv-control", control).context("cannot start the control thread")?;
        Ok(end)
    }

    fn serve_all<F: FileSystem + 'static>(&self, fs: impl Fn() -> Result<F>) -> Result<()> {
        loop {
            match self.listener.accept() {
                Ok(Some(front_end)) => match fs().and_then(|fs| self.serve(front_end, fs)) {
                    Err(error) if !self.is_only_one => {
                        // Requests that were abandoned may hold the descriptors that it would take.
                        tracing::warn!("a front-end cannot be served: {error:#}");
                    }
                    Ok(Served::Fatally) => bail!("a worker has ended"),
                    served => {
                        served?;
                    }
                },
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::warn!("a front-end cannot connect: {error}");
                    thread::sleep(RETRY);
                    continue;
                }
            }
            if self.is_only_one {
                return Ok(());
            }
        }
    }

    fn serve<F: FileSystem + 'static>(&self, front_end: FrontEnd, fs: F) -> Result<Served> {
        let peer = front_end.peer;
        tracing::info!("a front-end connected: {peer}");
        let session = Session::new(fs, Limits::default()).outliving_workers();
        let device =
            VhostUserFs::new(Arc::new(session), self.queues.clone(), self.config, self.poll);
        let device: Arc<dyn Device> = Arc::new(device);
        let closer = front_end.closer().context("cannot take a connection")?;
        *self.current() = Some((closer, device.clone()));
        let ended = serve_front_end(front_end.stream, device);
        *self.current() = None;
        let is_fatal = ended.cause.as_ref().is_some_and(Error::is_fatal);
        match ended.cause {
            None => tracing::info!("the front-end left: {peer}"),
            Some(error) => tracing::warn!("the front-end was hung up on ({peer}): {error}"),
        }
        if ended.is_abandoned {
            super::abandon(&ended.abandoned);
        }
        Ok(if is_fatal { Served::Fatally } else { Served::ToItsEnd })
    }

    /// Ends the thread: takes nobody more, and hangs up on the one that is there.
    fn end(&self) {
        self.listener.waker().wake();
        if let Some((front_end, _)) = &*self.current() {
            front_end.close();
        }
    }

    /// What is being done for the one that is served.
    fn in_flight(&self) -> Vec<String> {
        self.current().as_ref().map_or_else(Vec::new, |(_, device)| device.in_flight())
    }

    fn current(&self) -> MutexGuard<'_, Option<(Closer, Arc<dyn Device>)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
