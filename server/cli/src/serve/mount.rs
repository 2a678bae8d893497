//! A directory or an image at a mount point.

mod workers;

use std::{io, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use fsrv::{FileSystem, Limits, Session, layer::ReadOnly};
use fsrv_passthrough::prepare_worker;
use fsrv_transport::{
    fuse_dev::{Device, Mount, MountOptions, mount},
    io as file_io,
};
use rustix::process::geteuid;
use tokio::{runtime::Runtime, sync::mpsc::unbounded_channel, time::timeout};

use workers::Workers;

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
    let fs = Directory::new(args, share, prepared.descriptors.for_clients).filesystem()?;
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
        let is_background = self.background.is_some();
        let (began, mut begun) = unbounded_channel();
        let session = Session::new(fs, Limits::default()).on_begin(move |init| {
            let minor = init.minor();
            let line = format_args!("serving {what}: fuse 7.{minor}, {manner}; {contained}");
            if is_background {
                tracing::info!("{line}")
            } else {
                report::say(line)
            }
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
            super::abandon(&workers.in_flight());
            workers.join_ended()
        }
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
mod tests;
