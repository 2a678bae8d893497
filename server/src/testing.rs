//! A client in memory that speaks the protocol, with which a filesystem is tested.
//!
//! ```
//! use fsrv::{FileSystem, Limits, NodeId, Session, serve, testing::TestClient};
//!
//! struct Empty;
//! impl FileSystem for Empty {}
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let (client, session) = (TestClient::new(), Session::new(Empty, Limits::default()));
//! let server = serve(client.transport(16), &session);
//! let test = async {
//!     client.init().await.unwrap();
//!     let error = client.lookup(NodeId::ROOT, "name").await.unwrap_err();
//!     assert_eq!(error, fsrv::Errno::ENOSYS);
//!     client.hang_up();
//! };
//! futures::join!(server, test).0.unwrap();
//! # });
//! ```

mod calls;
mod message;

pub use calls::DirEntry;
pub use message::{Call, Reply, ask, header_of};

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use fsrv_transport::testing::{Exchange, MemClient, Outcome};

use crate::{abi::*, errno::Result, types::NodeId};

/// A client in memory: a [`MemClient`] that numbers its requests. Clones are the same client.
#[derive(Clone, Default)]
pub struct TestClient {
    mem: MemClient,
    unique: Arc<AtomicU64>,
    caller: Caller,
}

/// Who makes the requests of a [`TestClient`].
#[derive(Clone, Copy, Default, Debug)]
pub struct Caller {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its process.
    pub pid: u32,
    /// What FUSE_CREATE_SUPP_GROUP adds to a creation.
    pub group: Option<u32>,
}

/// A request in flight, and its number.
#[must_use]
pub struct Asked {
    /// The number that names it in an INTERRUPT.
    pub unique: u64,
    /// What became of it.
    pub exchange: Exchange,
}

impl TestClient {
    /// A client that has sent nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same client, whose requests come from `caller`.
    #[must_use]
    pub fn caller(&self, caller: Caller) -> Self {
        Self { caller, ..self.clone() }
    }

    /// Sends `call` without waiting. Even numbers from 2 on, as the kernel numbers requests.
    pub fn send(&self, call: Call) -> Asked {
        let unique = self.unique.fetch_add(2, Ordering::Relaxed) + 2;
        let Caller { uid, gid, pid, group } = self.caller;
        let call = call.from(uid, gid, pid).group(group);
        let room = call.reply_room();
        Asked { unique, exchange: self.mem.send(&call.bytes(unique), room) }
    }

    /// Sends `call` and waits for its reply.
    ///
    /// # Errors
    /// The errno of the reply.
    ///
    /// # Panics
    /// When there is no reply, or a malformed one.
    pub async fn request(&self, call: Call) -> Result<Reply> {
        self.send(call).reply().await
    }

    /// Sends INTERRUPT for the request `unique`. Its outcome is `Discarded` when it was found.
    pub fn interrupt(&self, unique: u64) -> Asked {
        self.send(ask(36, NodeId(0)).arg(&fuse_interrupt_in { unique }))
    }
}

impl Deref for TestClient {
    type Target = MemClient;

    fn deref(&self) -> &MemClient {
        &self.mem
    }
}

impl Asked {
    /// Waits for the reply.
    ///
    /// # Errors
    /// The errno of the reply.
    ///
    /// # Panics
    /// When there is no reply, or a malformed one.
    pub async fn reply(self) -> Result<Reply> {
        let unique = self.unique;
        match self.exchange.await {
            Outcome::Replied(bytes) => Reply::parse(unique, bytes),
            other => panic!("request {unique} got no reply: {other:?}"),
        }
    }
}
