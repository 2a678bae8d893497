//! The connection to a front-end, as control thread and workers share it.

use std::{
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, Ordering},
};

use super::wait::is_connected;

pub(super) struct Connection {
    socket: UnixStream,
    /// A queue is not served any more, although nobody has stopped it.
    lost_worker: AtomicBool,
}

impl Connection {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket, lost_worker: AtomicBool::new(false) }
    }

    /// Whether the front-end is still there.
    pub(super) fn is_alive(&self) -> bool {
        is_connected(&self.socket)
    }

    /// Hangs up on the front-end. The control thread, if it waits for a message, learns it too.
    pub(super) fn hang_up(&self) {
        // It may have left.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// On a worker, as it ends: a guest would wait for ever for a queue that nobody serves.
    pub(super) fn lose_worker(&self) {
        self.lost_worker.store(true, Ordering::SeqCst);
        self.hang_up();
    }

    pub(super) fn has_lost_worker(&self) -> bool {
        self.lost_worker.load(Ordering::SeqCst)
    }
}
