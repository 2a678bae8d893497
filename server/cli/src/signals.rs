//! Signals that end the server.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM and SIGHUP, which no longer end the process by themselves.
pub(crate) struct Signals([Signal; 3]);

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
        ]))
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    /// Cancel safe: no signal is lost.
    pub(crate) async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
