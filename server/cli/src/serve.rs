//! `fsrv serve`.

use std::{io, process::ExitCode, sync::Arc, thread::JoinHandle, time::Duration};

use anyhow::{Context, Result, anyhow};
use fsrv::{FileSystem, Limits, Session, layer::ReadOnly};
use fsrv_passthrough::{Config, Passthrough, prepare_worker};
use fsrv_transport::{
    fuse_dev::{Device, FuseTransport, Mount, MountOptions, mount},
    io::Engine,
    mem::Pool,
    worker::{self, Worker},
};
use rustix::process::geteuid;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};

use crate::{
    args::{AllowOther, Handles, Serve},
    containment::{self, Programs},
    engine::{self, Choice},
    limits::{self, Descriptors, Need},
    logging,
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
pub(crate) fn main(args: Serve) -> ExitCode {
    logging::start(args.log_level, args.log_format);
    let code = match prepare(&args).and_then(|prepared| prepared.serve(&args)) {
        Ok(()) => 0,
        Err(error) => {
            report::failure("fsrv", &error);
            1
        }
    };
    // A thread may still wait for something that never comes, so nothing is joined.
    std::process::exit(code)
}

/// The most workers unless more are asked for. Every request wakes each of them: on a machine with
/// many CPUs that would cost more than the nearest one saves.
const WORKERS_DEFAULT: usize = 8;

/// Everything that can be wrong before something is mounted.
struct Prepared {
    share: Share,
    engine: Choice,
    descriptors: Descriptors,
    cpus: Vec<usize>,
    config: Config,
    background: Option<Background>,
}

fn prepare(args: &Serve) -> Result<Prepared> {
    let background = args.background.then(Background::begin).transpose()?;
    let share = Share::open(&args.dir)?;
    share.refuse_overlap(&args.fuse)?;
    let by_handle = args.inode_file_handles != Handles::Never && containment::can_open_by_handle();
    let need = if by_handle { Need::OpenFiles } else { Need::KnownFiles };
    let descriptors = limits::raise(args.rlimit_nofile, need)?;
    let engine = engine::choose(args.io_engine)?;
    let mut cpus = worker::cpus().context("cannot tell the CPUs of this process")?;
    cpus.truncate(args.workers.unwrap_or(WORKERS_DEFAULT));
    let config = Config {
        cache: args.cache.policy(),
        attr_timeout: args.attr_timeout,
        entry_timeout: args.entry_timeout,
        negative_timeout: args.negative_timeout,
        writeback: args.writeback,
        allow_direct_io: args.allow_direct_io,
        inode_file_handles: args.inode_file_handles.choice(),
        max_descriptors: descriptors.limit,
    };
    Ok(Prepared { share, engine, descriptors, cpus, config, background })
}

impl Prepared {
    fn serve(self, args: &Serve) -> Result<()> {
        let cannot = || format!("cannot serve {}", self.share.path.display());
        let root = self.share.root.try_clone().with_context(cannot)?;
        let fs = Passthrough::new(root, self.config.clone()).with_context(cannot)?;
        if args.readonly { self.serve_fs(ReadOnly(fs), args) } else { self.serve_fs(fs, args) }
    }

    fn serve_fs<F: FileSystem + 'static>(self, fs: F, args: &Serve) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start")?;
        let result = runtime.block_on(async {
            // From here on a signal must not leave a mount behind.
            let signals = Signals::catch().context("cannot catch signals")?;
            let (mount, device) = mount(&args.fuse, &mount_options(&self.share, args))?;
            self.run(fs, args, Arc::new(mount), device, signals).await
        });
        runtime.shutdown_background();
        result
    }

    async fn run<F: FileSystem + 'static>(
        mut self,
        fs: F,
        args: &Serve,
        mount: Arc<Mount>,
        device: Device,
        mut signals: Signals,
    ) -> Result<()> {
        let programs = if mount.needs_program() { Programs::Unmount } else { Programs::None };
        let clones = self.clones(device)?;
        let contained = containment::apply(programs)?;
        let start = format!(
            ", {}, {}, cache {}{}; {contained}",
            count(clones.len(), "worker"),
            self.engine.engine,
            args.cache.name(),
            if args.readonly { ", read-only" } else { "" },
        );
        let what = format!("{} at {}", self.share.path.display(), mount.path().display());
        let (began, mut begun) = unbounded_channel();
        let session = Session::new(fs, Limits::default()).on_begin(move |init| {
            report::say(format_args!("serving {what}: fuse 7.{}{start}", init.minor()));
            // Nobody waits for a second beginning.
            let _ = began.send(());
        });
        self.log();
        let mut workers = Workers::start(session, clones, self.engine.engine)?;
        tokio::select! {
            biased;
            _ = begun.recv() => if let Some(background) = self.background.take() {
                background.mounted()?;
            },
            () = workers.one_ended() => {}
            () = signals.next() => return stop(workers, &mount, &mut signals).await,
        }
        tokio::select! {
            () = workers.one_ended() => {}
            () = signals.next() => {}
        }
        stop(workers, &mount, &mut signals).await
    }

    /// What is worth knowing about a start that succeeds; a failure is one line.
    fn log(&self) {
        if let Some(reason) = &self.engine.reason {
            tracing::info!("{reason}");
        }
        if let Some(warning) = &self.descriptors.warning {
            tracing::warn!("{warning}");
        }
    }

    /// A descriptor for each worker, all of them opened before anything is served.
    fn clones(&self, device: Device) -> Result<Vec<(usize, Device)>> {
        let mut clones = Vec::new();
        for &cpu in &self.cpus[1..] {
            clones.push((cpu, device.try_clone().context("cannot clone /dev/fuse")?));
        }
        clones.push((self.cpus[0], device));
        Ok(clones)
    }
}

/// Unmounts, unless that is done already, and lets the workers end.
async fn stop(mut workers: Workers, mount: &Arc<Mount>, signals: &mut Signals) -> Result<()> {
    let end = shutdown::unmount(mount, signals)
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
}

impl Workers {
    fn start<F: FileSystem + 'static>(
        session: Session<F>,
        devices: Vec<(usize, Device)>,
        engine: Engine,
    ) -> Result<Self> {
        let session = Arc::new(session);
        let (sender, ended) = unbounded_channel();
        let mut threads = Vec::new();
        for (index, (cpu, device)) in devices.into_iter().enumerate() {
            let (session, end) = (session.clone(), End(sender.clone()));
            let worker = Worker { name: format!("fsrv-{index}"), cpu: Some(cpu), engine };
            let main = move || async move {
                let _end = end;
                let config = session.transport_config();
                let transport = FuseTransport::new(device, config, Pool::new())?;
                fsrv::serve(transport, &*session).await
            };
            threads.push(worker.spawn(prepare_worker, main).context("cannot start a worker")?);
        }
        Ok(Self { threads, ended })
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
        for thread in self.threads {
            let result = thread.join().map_err(|_| anyhow!("a worker panicked"))?;
            result.context("a worker failed")?;
        }
        Ok(())
    }
}

/// Tells of the end of a worker, however it comes.
struct End(UnboundedSender<()>);

impl Drop for End {
    fn drop(&mut self) {
        // Whoever started the workers may be gone.
        let _ = self.0.send(());
    }
}

fn mount_options(share: &Share, args: &Serve) -> MountOptions {
    let allow_other = match args.allow_other {
        AllowOther::On => true,
        AllowOther::Off => false,
        AllowOther::Auto => geteuid().is_root(),
    };
    let mut options = MountOptions::new(&share.path).allow_other(allow_other);
    for word in &args.mount_options {
        options.set(word);
    }
    if args.readonly {
        options.set("ro");
    }
    options
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::{fs, thread, time::Instant};

    use fsrv::{Attributes, Context as Request, op::GetAttr};
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    /// Never answers.
    struct Stuck;

    impl FileSystem for Stuck {
        async fn getattr(&self, _: &Request, _: GetAttr) -> fsrv::Result<Attributes> {
            std::future::pending().await
        }
    }

    #[test]
    fn a_request_that_never_ends_does_not_keep_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let (mount, device) = mount(dir.path(), &MountOptions::new("test")).expect("a mount");
        let mount = Arc::new(mount);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut signals = Signals::catch().unwrap();
            let session = Session::new(Stuck, Limits::default());
            let workers = Workers::start(session, vec![(0, device)], Engine::Threads).unwrap();
            let client = thread::spawn({
                let path = dir.path().to_owned();
                move || fs::metadata(path)
            });
            tokio::time::sleep(Duration::from_millis(100)).await;
            // The second signal, so that the test need not wait for the first one's patience.
            kill_process(getpid(), Signal::TERM).unwrap();
            let start = Instant::now();
            stop(workers, &mount, &mut signals).await.unwrap();
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
            client.join().unwrap().expect_err("the mount is gone");
        });
    }
}
