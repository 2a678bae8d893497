//! Messages that a server sends unasked.

use std::{io, sync::Arc};

use fsrv_transport::Notifier;
use zerocopy::IntoBytes;

use crate::{abi::*, name::Name, types::NodeId};

/// The most node ids in one message: what fits into a page.
const PRUNE_MAX: usize = 500;

/// Tells a client that something changed. Clones tell the same client.
///
/// The client may first need answers to requests of its own, so none of this is called from a worker
/// that serves it.
#[derive(Clone)]
pub struct Client {
    notifier: Arc<dyn Notifier>,
}

impl Client {
    pub(crate) fn new(notifier: Arc<dyn Notifier>) -> Self {
        Self { notifier }
    }

    /// The data in `offset..offset + len` and the attributes of `nodeid` are out of date: all data
    /// for a `len` of 0, no data for a negative `offset`.
    ///
    /// # Errors
    /// `NotFound` when the client does not know the node.
    pub fn invalidate_inode(&self, nodeid: NodeId, offset: i64, len: i64) -> io::Result<()> {
        let out = fuse_notify_inval_inode_out { ino: nodeid.0, off: offset, len };
        self.send(FUSE_NOTIFY_INVAL_INODE, &[out.as_bytes()])
    }

    /// The name is out of date.
    ///
    /// # Errors
    /// `NotFound` when the client does not know the parent or the name.
    pub fn invalidate_entry(&self, parent: NodeId, name: Name<'_>) -> io::Result<()> {
        let out =
            fuse_notify_inval_entry_out { parent: parent.0, namelen: name_len(name), flags: 0 };
        self.send(FUSE_NOTIFY_INVAL_ENTRY, &[out.as_bytes(), name.as_c_str().to_bytes_with_nul()])
    }

    /// Asks the client to forget `nodes` if it does not use them (7.45).
    ///
    /// # Errors
    /// `InvalidInput` from a client that does not know this message.
    pub fn prune(&self, nodes: &[NodeId]) -> io::Result<()> {
        for nodes in nodes.chunks(PRUNE_MAX) {
            let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
            let out = fuse_notify_prune_out { count, ..Default::default() };
            let ids: Vec<u64> = nodes.iter().map(|node| node.0).collect();
            self.send(FUSE_NOTIFY_PRUNE, &[out.as_bytes(), ids.as_bytes()])?;
        }
        Ok(())
    }

    fn send(&self, code: i32, body: &[&[u8]]) -> io::Result<()> {
        let body_len: usize = body.iter().map(|part| part.len()).sum();
        let header = reply_header(0, code, body_len);
        let mut parts = vec![header.as_bytes()];
        parts.extend(body);
        self.notifier.notify(&parts)
    }
}

/// Makes the header of every message to a client: the one place that computes its length.
pub(crate) fn reply_header(unique: u64, error: i32, body: usize) -> fuse_out_header {
    let len = u32::try_from(size_of::<fuse_out_header>() + body);
    fuse_out_header { len: len.expect("a body fits its client's buffer"), error, unique }
}

fn name_len(name: Name<'_>) -> u32 {
    u32::try_from(name.as_bytes().len()).expect("a name has at most 255 bytes")
}
