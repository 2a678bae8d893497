//! The device of a virtual machine monitor in another process.

use std::{sync::Arc, time::Duration};

use fsrv_transport::{Config, vhost_user::Device, virtqueue::Prepared};

use super::{ConfigSpace, Queues, queues::poll_of};
use crate::{fs::FileSystem, session::Session};

/// The most queues that a front-end may use, whatever the configuration space says: many choose the
/// number themselves. The high-priority queue, and as many request queues as the largest machines use.
const QUEUES_MAX: u16 = 1 + 64;

/// A virtio-fs device for one front-end; see [`fsrv_transport::vhost_user`].
pub struct VhostUserFs<F> {
    session: Arc<Session<F>>,
    queues: Arc<Queues>,
    config: ConfigSpace,
    poll: Duration,
}

impl<F: FileSystem + 'static> VhostUserFs<F> {
    /// Serves `session`, which outlives its workers, on those of `queues`.
    pub fn new(
        session: Arc<Session<F>>,
        queues: Arc<Queues>,
        config: ConfigSpace,
        poll: Duration,
    ) -> Self {
        Self { session, queues, config, poll }
    }
}

impl<F: FileSystem + 'static> Device for VhostUserFs<F> {
    fn config_space(&self) -> Vec<u8> {
        self.config.to_bytes().to_vec()
    }

    fn queues_max(&self) -> u16 {
        QUEUES_MAX
    }

    fn protocol(&self) -> Config {
        self.session.transport_config()
    }

    fn poll(&self, index: u16) -> Duration {
        poll_of(index, self.poll)
    }

    fn serve(&self, index: u16, queue: Prepared) {
        self.queues.serve(index, queue, self.session.clone());
    }

    fn reset(&self) {
        self.session.end();
    }

    fn in_flight(&self) -> Vec<String> {
        let requests = self.session.in_flight().into_iter();
        requests.map(|(unique, opcode)| format!("{} {unique}", opcode.name())).collect()
    }
}
