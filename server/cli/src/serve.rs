//! `fsrv serve`.

mod mount;
mod vm;

use std::process::ExitCode;

use anyhow::{Context, Result};
use fsrv_passthrough::{Config, Passthrough};
use fsrv_transport::worker;

use crate::{
    args::{Handles, Serve},
    containment,
    engine::{self, Choice},
    limits::{self, Descriptors, Need},
    logging, report,
    share::Share,
};

/// Serves until the mount is gone, or the virtual machine.
pub(crate) fn main(args: Serve) -> ExitCode {
    logging::start(args.log_level, args.log_format);
    let served = match &args.fuse {
        Some(point) => mount::serve(&args, point),
        None => vm::serve(&args),
    };
    let code = match served {
        Ok(()) => 0,
        Err(error) => {
            report::failure("fsrv", &error);
            1
        }
    };
    // A thread may still wait for something that never comes, so nothing is joined.
    std::process::exit(code)
}

/// The most workers unless more are asked for. Every request of a mount wakes each of them: on a machine
/// with many CPUs that would cost more than the nearest one saves.
const WORKERS_DEFAULT: usize = 8;

/// Everything that can be wrong before something is served.
struct Prepared {
    share: Share,
    engine: Choice,
    descriptors: Descriptors,
    cpus: Vec<usize>,
    config: Config,
}

impl Prepared {
    fn new(args: &Serve, share: Share) -> Result<Self> {
        let can_open = containment::can_open_by_handle();
        let by_handle = args.inode_file_handles != Handles::Never && can_open;
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
        Ok(Self { share, engine, descriptors, cpus, config })
    }

    /// The directory as a client sees it that knows nothing of it yet.
    fn passthrough(&self) -> Result<Passthrough> {
        let cannot = || format!("cannot serve {}", self.share.path.display());
        let root = self.share.root.try_clone().with_context(cannot)?;
        Passthrough::new(root, self.config.clone()).with_context(cannot)
    }

    /// How it is served, for the start line.
    fn manner(&self, args: &Serve, workers: usize) -> String {
        format!(
            "{}, {}, cache {}{}",
            count(workers, "worker"),
            self.engine.engine,
            args.cache.name(),
            if args.readonly { ", read-only" } else { "" },
        )
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
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
