//! Large requests, one behind the other through a file.

use anyhow::{Result, ensure};
use fsrv_frontend::abi::{Opcode, ReadIn, WriteIn, WriteOut};
use fsrv_frontend::{Call, Client, Done, Payload};
use zerocopy::IntoBytes;

use super::{Load, succeeded};
use crate::vhost::files::{LARGE, OpenFile};

/// Reads or writes a file from its beginning to its end, and again.
pub(crate) struct Stream {
    pub(crate) file: OpenFile,
    pub(crate) writes: bool,
    pub(crate) next: u64,
}

impl Load for Stream {
    fn submit(&mut self, client: &mut Client, lane: u64) -> Result<()> {
        let (fh, offset, size) = (self.file.fh, self.next, LARGE as u32);
        self.next = (self.next + LARGE) % self.file.size;
        let read = ReadIn { fh, offset, size, ..ReadIn::default() };
        let write = WriteIn { fh, offset, size, ..WriteIn::default() };
        let (op, payload, args, reply) = if self.writes {
            let reply = size_of::<WriteOut>() as u32;
            (Opcode::Write, Payload::SendStale(size), write.as_bytes(), reply)
        } else {
            (Opcode::Read, Payload::Receive(size), read.as_bytes(), 0)
        };
        let call = Call { op, node: self.file.node, args: &[args], payload, reply };
        Ok(client.submit(&call, lane)?)
    }

    fn complete(&mut self, client: &mut Client, done: &Done) -> Result<u64> {
        succeeded(done)?;
        let moved = if self.writes {
            let mut size = [0; 4];
            client.read_reply(done, 0, &mut size);
            u32::from_le_bytes(size)
        } else {
            done.len
        };
        ensure!(u64::from(moved) == LARGE, "a short transfer");
        Ok(1)
    }
}
