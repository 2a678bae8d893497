//! Asks the client to forget files that it does not use, when descriptors run out.

use std::{
    io,
    sync::{
        Weak,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use fsrv::{NodeId, notify::Client};
use fsrv_transport::io::start_thread;

use crate::shared::Shared;

/// How many files are asked for at once.
const BATCH: usize = 2000;

/// The client needs this long to answer with FORGETs.
const PAUSE: Duration = Duration::from_millis(20);

/// A thread of its own: the client may need answers from every worker before it takes the message.
pub(crate) struct Pruner {
    wake: SyncSender<()>,
}

impl Pruner {
    pub(crate) fn start(shared: Weak<Shared>, client: Client) -> io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        start_thread("fsrv-prune", move || {
            while woken.recv().is_ok() {
                let Some(shared) = shared.upgrade() else { break };
                let nodes = shared.inodes.held_by_fd(NodeId::ROOT, BATCH);
                drop(shared);
                if let Err(error) = client.prune(&nodes) {
                    tracing::debug!("the client does not prune: {error}");
                    if error.kind() == io::ErrorKind::InvalidInput {
                        break;
                    }
                }
                thread::sleep(PAUSE);
            }
        })?;
        Ok(Self { wake })
    }

    /// Asks for a round, unless one is due already.
    pub(crate) fn wake(&self) {
        let _already_due = self.wake.try_send(());
    }
}
