//! What the client knows that it holds.

use std::collections::BTreeMap;

use fsrv::{
    abi::*,
    testing::{Reply, header_of},
};
use fsrv_transport::testing::{Exchange, Outcome};
use zerocopy::FromBytes;

/// A message that was sent, until its outcome is known.
pub(crate) struct Sent {
    pub(crate) unique: u64,
    /// The number as it was sent: of a request that was sent again, with one bit more.
    pub(crate) on_wire: u64,
    pub(crate) queue: usize,
    pub(crate) kind: Kind,
    pub(crate) exchange: Exchange,
}

/// What the reply to a request means for the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Entry,
    Create,
    Open,
    ReadDirPlus,
    Lock { node: u64, owner: u64 },
    Unlock { node: u64, owner: u64 },
    Release { fh: u64, node: u64 },
    Forget(Vec<(u64, u64)>),
    Interrupt { target: u64 },
    Init,
    Destroy,
    Other,
}

impl Kind {
    pub(crate) fn is_reset(&self) -> bool {
        matches!(self, Self::Init | Self::Destroy)
    }
}

#[derive(Default)]
pub(crate) struct Known {
    pub(crate) lookups: BTreeMap<u64, u64>,
    pub(crate) handles: BTreeMap<u64, u64>,
    pub(crate) locks: BTreeMap<u64, u64>,
    /// Requests for locks and unlocks that have no outcome yet.
    pub(crate) doubtful: Vec<(u64, u64)>,
    pub(crate) begun: bool,
}

impl Known {
    pub(crate) fn lock_in_doubt(&self, node: u64, owner: u64) -> bool {
        self.doubtful.contains(&(node, owner))
    }

    /// Everything is gone with the session.
    pub(crate) fn clear(&mut self) {
        *self = Self { doubtful: std::mem::take(&mut self.doubtful), ..Self::default() };
    }

    pub(crate) fn sent(&mut self, kind: &Kind) {
        if let &(Kind::Lock { node, owner } | Kind::Unlock { node, owner }) = kind {
            self.doubtful.push((node, owner));
        }
    }

    pub(crate) fn learn(&mut self, sent: &Sent, outcome: Outcome) {
        if let Kind::Lock { node, owner } | Kind::Unlock { node, owner } = sent.kind {
            let index = self.doubtful.iter().position(|&doubt| doubt == (node, owner));
            self.doubtful.swap_remove(index.expect("noted when sent"));
        }
        match outcome {
            Outcome::Replied(bytes) => match Reply::parse(sent.on_wire, bytes) {
                Ok(reply) => self.learn_reply(&sent.kind, &reply),
                Err(_) => self.learn_effect(&sent.kind),
            },
            // It did take effect, and its client must undo that.
            Outcome::Refused(bytes) => match sent.kind {
                Kind::Lock { .. } if header_of(&bytes).error != 0 => {}
                _ => self.learn_effect_and_lock(&sent.kind),
            },
            Outcome::Discarded => {
                assert!(
                    matches!(sent.kind, Kind::Forget(_) | Kind::Interrupt { .. } | Kind::Other),
                    "{:?} got no reply",
                    sent.kind
                );
            }
            Outcome::Lost => self.not_received(&sent.kind),
            Outcome::Dropped => panic!("{:?} was dropped", sent.kind),
        }
    }

    fn learn_reply(&mut self, kind: &Kind, reply: &Reply) {
        match kind {
            Kind::Entry => self.learn_node(reply.get::<fuse_entry_out>().nodeid),
            Kind::Create => {
                let created: fuse_create_out = reply.get();
                self.learn_node(created.entry.nodeid);
                self.handles.insert(created.open.fh, created.entry.nodeid);
            }
            Kind::Open => {
                self.handles.insert(reply.get::<fuse_open_out>().fh, 1);
            }
            Kind::ReadDirPlus => self.learn_entries(&reply.0),
            Kind::Init => {
                self.clear();
                self.begun = true;
            }
            Kind::Destroy => self.clear(),
            _ => self.learn_effect_and_lock(kind),
        }
    }

    fn learn_effect_and_lock(&mut self, kind: &Kind) {
        if let &Kind::Lock { node, owner } = kind {
            self.locks.insert(node, owner);
        }
        self.learn_effect(kind);
    }

    /// What has taken effect whatever the reply is.
    fn learn_effect(&mut self, kind: &Kind) {
        if let &Kind::Unlock { node, owner } = kind
            && self.locks.get(&node) == Some(&owner)
        {
            self.locks.remove(&node);
        }
    }

    fn not_received(&mut self, kind: &Kind) {
        match kind {
            &Kind::Release { fh, node } => drop(self.handles.insert(fh, node)),
            Kind::Forget(nodes) => {
                for &(node, count) in nodes {
                    *self.lookups.entry(node).or_default() += count;
                }
            }
            _ => {}
        }
    }

    fn learn_entries(&mut self, mut records: &[u8]) {
        while !records.is_empty() {
            let (record, name) = fuse_direntplus::read_from_prefix(records).expect("a record");
            self.learn_node(record.entry_out.nodeid);
            records = &name[(record.dirent.namelen as usize).next_multiple_of(8)..];
        }
    }

    fn learn_node(&mut self, node: u64) {
        if node != 0 {
            *self.lookups.entry(node).or_default() += 1;
        }
    }
}
