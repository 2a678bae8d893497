//! `fsrv serve`.

mod directory;
mod image;
mod mount;
mod vm;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use fsrv_transport::worker;

use crate::{
    args::Serve,
    containment::Later,
    engine::{self, Choice},
    limits::{self, Descriptors, Need, Own},
    logging::{self, Sink},
    report,
};

/// Serves until the mount is gone, or the virtual machine.
pub(crate) fn main(args: Serve) -> ExitCode {
    // A mount program's terminal has errors only, and later it is gone.
    let sink = if args.background { Sink::System } else { Sink::Terminal };
    logging::start(args.log_level, args.log_format, sink);
    let served = match &args.fuse {
        Some(point) => mount::serve(&args, point),
        None => vm::serve(&args),
    };
    let code = match served {
        Ok(()) => 0,
        Err(error) => {
            report::failure("fsrv", &error);
            if sink == Sink::System {
                tracing::error!("{error:#}");
            }
            1
        }
    };
    // A thread may still wait for something that never comes, so nothing is joined.
    fsrv_transport::io::exit(code)
}

/// The most workers unless more are asked for. Every request of a mount wakes each of them: on a machine
/// with many CPUs that would cost more than the nearest one saves.
const WORKERS_DEFAULT: usize = 8;

/// Everything that can be wrong before something is served, whatever it is.
struct Prepared {
    /// What is served.
    path: PathBuf,
    /// How, for the start line.
    manner: String,
    engine: Choice,
    descriptors: Descriptors,
    cpus: Vec<usize>,
}

impl Prepared {
    fn new(args: &Serve, path: &Path, manner: String, need: Need) -> Result<Self> {
        let mut cpus = worker::cpus().context("cannot tell the CPUs of this process")?;
        cpus.truncate(args.workers.unwrap_or(WORKERS_DEFAULT));
        let own = match args.fuse {
            Some(_) => Own { workers: cpus.len(), queues: 0 },
            // And those for what must not wait for requests.
            None => {
                Own { workers: cpus.len() + 1, queues: vm::request_queues(args, cpus.len()) + 1 }
            }
        };
        let descriptors = limits::raise(args.rlimit_nofile, need, own)?;
        let later = if args.fuse.is_some() { Later::Unmount } else { Later::Serve };
        let engine = engine::choose(args.io_engine, own.workers, later)?;
        Ok(Self { path: path.to_owned(), manner, engine, descriptors, cpus })
    }

    /// How it is served, for the start line.
    fn manner(&self, workers: usize) -> String {
        format!("{}, {}, {}", count(workers, "worker"), self.engine.engine, self.manner)
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

/// So many requests are named when they are abandoned.
const NAMED_MAX: usize = 10;

/// Says which requests are left behind.
fn abandon(requests: &[String]) {
    let named = requests.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = requests.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    tracing::warn!("requests do not end and are abandoned: {named}{more}");
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
