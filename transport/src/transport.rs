//! What a transport is: it yields messages, and each message is completed once.

use std::{future::Future, io, sync::Arc};

use crate::mem::{Filled, InBuf, OutBuf};

/// A source of messages: one `/dev/fuse` descriptor or one virtqueue.
pub trait Transport {
    /// What answers a message of this transport.
    type Completion: Completion;

    /// The most messages that may be in flight at once.
    fn depth(&self) -> usize;

    /// The most messages that may wait for another client at once, see `depth`.
    fn waiters(&self) -> usize {
        usize::MAX
    }

    /// Waits for the next message; `None` when the client is gone.
    ///
    /// # Errors
    /// When the transport itself fails. The loop then ends.
    ///
    /// # Cancel safety
    /// Cancel safe: a message is taken only by the poll that returns it.
    fn recv(&mut self) -> impl Future<Output = io::Result<Option<Message<Self::Completion>>>>;

    /// Tells the client about completions so far: one signal a batch.
    fn flush(&mut self) {}

    /// What sends unsolicited messages to this client, where it takes any.
    fn notifier(&self) -> Option<Arc<dyn Notifier>> {
        None
    }

    /// What the server needs no longer than one turn, such as idle buffers, may go.
    ///
    /// Returns whether a later call may free more.
    fn trim(&mut self) -> bool {
        false
    }
}

/// One message as it came off the wire, with the right to answer it.
pub struct Message<C> {
    /// What the client sent.
    pub input: InBuf,
    /// Room for the data of the reply, its header not counted.
    pub output: OutBuf,
    /// Answers this message.
    pub completion: C,
}

/// Answers one message. Consumed by use: a message is answered exactly once.
pub trait Completion {
    /// Sends `header`, then `fixed`, then `data`.
    ///
    /// # Errors
    /// `NotFound` when the client no longer waits for this answer: whatever the answer granted must
    /// be taken back. Any other error means that the transport is broken.
    fn reply(self, header: &[u8], fixed: &[u8], data: Option<Filled>) -> io::Result<()>;

    /// Ends the message without an answer.
    fn discard(self);
}

/// What a transport must be told of the protocol it carries.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes before the data of the message that carries most: data begins at a page border if
    /// that much precedes it.
    pub header_split: usize,
    /// Bytes before the data of every reply.
    pub reply_header: usize,
    /// The most data of one message, in bytes, in either direction.
    pub max_data: usize,
    /// The most messages in flight on one transport.
    pub depth: usize,
}

/// Sends unsolicited messages to a client.
pub trait Notifier: Send + Sync {
    /// Sends one message of `parts`. It may wait for the client to answer other requests, so it is
    /// never called from a worker that serves this client.
    ///
    /// # Errors
    /// What the transport answered: `NotFound` where the client knows nothing of the object.
    fn notify(&self, parts: &[&[u8]]) -> io::Result<()>;
}
