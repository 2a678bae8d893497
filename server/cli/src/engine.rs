//! The choice of the engine for file I/O.

use anyhow::{Context, Result};
use fsrv_transport::{io::Engine, worker};

use crate::args::IoEngine;

/// Tries what the machine allows, and says what came of it.
///
/// # Errors
/// When io_uring is required and refused.
pub(crate) fn choose(wanted: IoEngine) -> Result<Engine> {
    match wanted {
        IoEngine::Threads => Ok(Engine::Threads),
        IoEngine::Uring => worker::probe_ring()
            .map(|()| Engine::Uring)
            .context("cannot use io_uring, which --io-engine uring requires"),
        IoEngine::Auto => Ok(match worker::probe_ring() {
            Ok(()) => {
                tracing::info!("file I/O by io_uring: the kernel allows it");
                Engine::Uring
            }
            Err(error) => {
                tracing::info!("file I/O by threads: no io_uring here: {error}");
                Engine::Threads
            }
        }),
    }
}
