//! Signals that end the server.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM and SIGHUP, which no longer end the process by themselves, and SIGXCPU: clients' work uses up a limit of
/// CPU time (RLIMIT_CPU), and a dead mount must not be what is left.
pub(crate) struct Signals([Signal; 4]);

impl Signals {
    /// For the runtime of the calling thread.
    ///
    /// # Errors
    /// When a handler cannot be installed.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
            signal(SignalKind::from_raw(rustix::process::Signal::XCPU.as_raw()))?,
        ]))
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    /// Cancel safe: no signal is lost.
    pub(crate) async fn next(&mut self) {
        let [interrupt, terminate, hangup, cpu] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = cpu.recv() => {
                tracing::warn!("the CPU time that this process may use is over (RLIMIT_CPU)");
            }
        }
    }
}
