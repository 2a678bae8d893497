//! Asks the client to forget files that it does not use, when descriptors run out.

use std::{
    io,
    sync::{
        Arc, Weak,
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

/// The longest time between two rounds, when the client uses all that it is asked for.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A thread of its own: the client may need answers from every worker before it takes the message.
pub(crate) struct Pruner {
    wake: SyncSender<()>,
}

impl Pruner {
    pub(crate) fn start(shared: Weak<Shared>, client: Client) -> io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let ask = move || {
            let mut rounds = Rounds::default();
            while woken.recv().is_ok() {
                let Some(nodes) = shared
                    .upgrade()
                    .map(|shared| rounds.next(|after| shared.inodes.held_by_fd(after, BATCH)))
                else {
                    break;
                };
                if let Err(error) = client.prune(&nodes) {
                    tracing::debug!("the client does not prune: {error}");
                    if error.kind() == io::ErrorKind::InvalidInput {
                        break;
                    }
                }
                thread::sleep(PAUSE);
                let gave_back = |shared: Arc<Shared>| {
                    nodes.iter().any(|&nodeid| shared.inodes.get(nodeid).is_none())
                };
                let gave_back = shared.upgrade().is_some_and(gave_back);
                thread::sleep(rounds.pause(gave_back));
            }
        };
        start_thread("fsrv-prune", ask)?;
        Ok(Self { wake })
    }

    /// Asks for a round, unless one is due already.
    pub(crate) fn wake(&self) {
        let _already_due = self.wake.try_send(());
    }
}

/// Whom to ask next, and when.
struct Rounds {
    /// The youngest that was asked for: those that are in use do not keep the others from being asked for.
    after: NodeId,
    /// The last pause.
    pause: Duration,
}

impl Default for Rounds {
    fn default() -> Self {
        Self { after: NodeId::ROOT, pause: Duration::ZERO }
    }
}

impl Rounds {
    /// The files to ask for. `younger` are those that are younger than a file, the oldest first, and not all of them.
    fn next(&mut self, younger: impl Fn(NodeId) -> Vec<NodeId>) -> Vec<NodeId> {
        let mut nodes = younger(self.after);
        if nodes.is_empty() {
            nodes = younger(NodeId::ROOT);
        }
        self.after = nodes.last().copied().unwrap_or(NodeId::ROOT);
        nodes
    }

    /// How long to wait for the next round beyond what the client needs to answer: longer and longer as long as it gives
    /// nothing back, because then it uses what it has.
    fn pause(&mut self, gave_back: bool) -> Duration {
        self.pause = match gave_back {
            true => Duration::ZERO,
            false => (self.pause * 2).clamp(PAUSE, PAUSE_MAX),
        };
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_gives_nothing_back_is_asked_less_and_less_often() {
        let mut rounds = Rounds::default();
        assert_eq!(rounds.pause(true), Duration::ZERO);
        let pauses: Vec<_> = (0..20).map(|_| rounds.pause(false)).collect();
        assert_eq!(pauses[..3], [PAUSE, 2 * PAUSE, 4 * PAUSE]);
        assert_eq!(pauses[19], PAUSE_MAX);
        assert_eq!(rounds.pause(true), Duration::ZERO);
        assert_eq!(rounds.pause(false), PAUSE);
    }

    #[test]
    fn files_in_use_do_not_keep_the_others_from_being_asked_for() {
        // Nobody gives any of them back.
        let known: Vec<NodeId> = (2..=6).map(NodeId).collect();
        let younger = |after| known.iter().copied().filter(|&node| node > after).take(2).collect();
        let mut rounds = Rounds::default();
        let asked: Vec<u64> =
            (0..5).flat_map(|_| rounds.next(younger)).map(|node| node.0).collect();
        assert_eq!(asked, [2, 3, 4, 5, 6, 2, 3, 4, 5]);
    }
}
