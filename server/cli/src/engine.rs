//! The choice of the engine for file I/O.

use std::io;

use anyhow::{Context, Result, bail};
use fsrv_transport::{io::Engine, worker};

use crate::{args::IoEngine, containment, containment::Later};

/// An engine, and why it is that one where it was not asked for.
pub(crate) struct Choice {
    pub(crate) engine: Engine,
    pub(crate) reason: Option<String>,
}

/// Tries what the machine allows for so many workers, with what is left to them.
///
/// # Errors
/// When io_uring is required and refused.
pub(crate) fn choose(wanted: IoEngine, workers: usize, later: Later) -> Result<Choice> {
    let asked_for = |engine| Choice { engine, reason: None };
    let probe = || worker::probe_rings(workers, move || containment::apply_to_probe(later));
    match wanted {
        IoEngine::Threads => Ok(asked_for(Engine::Threads)),
        IoEngine::Uring => match probe() {
            Ok(()) => Ok(asked_for(Engine::Uring)),
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => bail!(
                "cannot use io_uring, which --io-engine uring requires: {workers} rings take more memory than may be \
                 locked; raise `ulimit -l` (LimitMEMLOCK=)"
            ),
            Err(error) => {
                Err(error).context("cannot use io_uring, which --io-engine uring requires")
            }
        },
        IoEngine::Auto => Ok(match probe() {
            Ok(()) => Choice {
                engine: Engine::Uring,
                reason: Some("file I/O by io_uring: the kernel allows it".to_owned()),
            },
            Err(error) => Choice {
                engine: Engine::Threads,
                reason: Some(format!("file I/O by threads: no io_uring here: {error}")),
            },
        }),
    }
}
