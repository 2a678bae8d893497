//! The choice of the engine for file I/O.

use anyhow::{Context, Result};
use fsrv_transport::{io::Engine, worker};

use crate::args::IoEngine;

/// An engine, and why it is that one where it was not asked for.
pub(crate) struct Choice {
    pub(crate) engine: Engine,
    pub(crate) reason: Option<String>,
}

/// Tries what the machine allows.
///
/// # Errors
/// When io_uring is required and refused.
pub(crate) fn choose(wanted: IoEngine) -> Result<Choice> {
    let asked_for = |engine| Choice { engine, reason: None };
    match wanted {
        IoEngine::Threads => Ok(asked_for(Engine::Threads)),
        IoEngine::Uring => worker::probe_ring()
            .map(|()| asked_for(Engine::Uring))
            .context("cannot use io_uring, which --io-engine uring requires"),
        IoEngine::Auto => Ok(match worker::probe_ring() {
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
