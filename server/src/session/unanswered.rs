//! A message that somebody waits for.

use std::io;

use fsrv_transport::Completion;
use zerocopy::IntoBytes;

use crate::{
    abi::fuse_in_header,
    errno::{Errno, Result},
    notify::reply_header,
    op::{Answer, Fixed, Grant, Opcode},
};

/// The right to answer one message. Dropped unused, it answers EIO: a client would wait for ever.
pub(super) struct Unanswered<C: Completion> {
    /// `None` when it was used.
    completion: Option<C>,
    unique: u64,
    opcode: u32,
}

impl<C: Completion> Unanswered<C> {
    /// For the message that has `header`.
    pub(super) fn new(completion: C, header: &fuse_in_header) -> Self {
        Self { completion: Some(completion), unique: header.unique, opcode: header.opcode }
    }

    /// Sends the reply. Returns what it granted when the client did not get it.
    pub(super) fn answer(mut self, reply: Result<Answer>) -> Option<Grant> {
        send(self.completion.take()?, self.unique, reply)
    }

    /// Ends a message that has no answer.
    pub(super) fn discard(mut self) {
        if let Some(completion) = self.completion.take() {
            completion.discard();
        }
    }
}

impl<C: Completion> Drop for Unanswered<C> {
    fn drop(&mut self) {
        let Some(completion) = self.completion.take() else { return };
        let opcode = Opcode::from_code(self.opcode);
        if opcode.is_some_and(Opcode::has_no_answer) {
            return completion.discard();
        }
        let (operation, unique) = (opcode.map_or("unknown", Opcode::name), self.unique);
        tracing::error!(operation, unique, "a request was dropped; it is answered EIO");
        let _nothing_granted = send(completion, self.unique, Err(Errno::EIO));
    }
}

fn send<C: Completion>(completion: C, unique: u64, reply: Result<Answer>) -> Option<Grant> {
    let (error, fixed, data, grant) = match reply {
        Ok(Answer { fixed, data, grant }) => (0, fixed, data, grant),
        Err(errno) => (-errno.get(), Fixed::empty(), None, Grant::Nothing),
    };
    let body = fixed.as_bytes().len() + data.as_ref().map_or(0, |data| data.len());
    let header = reply_header(unique, error, body);
    match completion.reply(header.as_bytes(), fixed.as_bytes(), data) {
        Ok(()) => None,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::debug!(unique, "a reply was not taken: {error}");
            }
            Some(grant)
        }
    }
}
