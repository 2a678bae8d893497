//! Loads of one request a lane, over and over.

use anyhow::{Result, ensure};
use fsrv_frontend::abi::{AttrOut, EntryOut, GetattrIn, Opcode, ReadIn, WriteIn, WriteOut};
use fsrv_frontend::tree::Pattern;
use fsrv_frontend::{Call, Client, Done, Payload};
use zerocopy::IntoBytes;

use super::{Load, Random, succeeded};
use crate::vhost::files::{BLOCK, OpenFile};

/// Random blocks of a file, each checked by its first bytes.
pub(crate) struct Read {
    file: OpenFile,
    random: Random,
    offsets: Vec<u64>,
}

/// Random blocks of a file.
pub(crate) struct Write {
    file: OpenFile,
    random: Random,
}

/// The attributes of one node.
pub(crate) struct Getattr {
    pub(crate) node: u64,
}

/// Names of a directory, one after the other.
pub(crate) struct Lookup {
    parent: u64,
    names: Vec<Vec<u8>>,
    next: usize,
    /// ENOENT, if they are not to be found.
    errno: i32,
}

impl Read {
    pub(crate) fn new(file: OpenFile, lanes: u16, seed: u64) -> Self {
        Read { file, random: Random::new(seed), offsets: vec![0; lanes.into()] }
    }
}

impl Load for Read {
    fn submit(&mut self, client: &mut Client, lane: u64) -> Result<()> {
        let offset = self.random.below(self.file.size / BLOCK) * BLOCK;
        self.offsets[lane as usize] = offset;
        let args = ReadIn {
            fh: self.file.fh,
            offset,
            size: BLOCK as u32,
            flags: self.file.flags,
            ..ReadIn::default()
        };
        let call = Call {
            op: Opcode::Read,
            node: self.file.node,
            args: &[args.as_bytes()],
            payload: Payload::Receive(BLOCK as u32),
            reply: 0,
        };
        Ok(client.submit(&call, lane)?)
    }

    fn complete(&mut self, client: &mut Client, done: &Done) -> Result<u64> {
        succeeded(done)?;
        ensure!(u64::from(done.len) == BLOCK, "a short read");
        let mut start = [0; 8];
        client.read_reply(done, 0, &mut start);
        let offset = self.offsets[done.tag as usize];
        ensure!(Pattern::new(self.file.number).mismatch(offset, &start).is_none(), "wrong data");
        Ok(1)
    }
}

impl Write {
    pub(crate) fn new(file: OpenFile, seed: u64) -> Self {
        Write { file, random: Random::new(seed) }
    }
}

impl Load for Write {
    fn submit(&mut self, client: &mut Client, lane: u64) -> Result<()> {
        let offset = self.random.below(self.file.size / BLOCK) * BLOCK;
        let (fh, size) = (self.file.fh, BLOCK as u32);
        let args = WriteIn { fh, offset, size, flags: self.file.flags, ..WriteIn::default() };
        let call = Call {
            op: Opcode::Write,
            node: self.file.node,
            args: &[args.as_bytes()],
            payload: Payload::SendStale(size),
            reply: size_of::<WriteOut>() as u32,
        };
        Ok(client.submit(&call, lane)?)
    }

    fn complete(&mut self, client: &mut Client, done: &Done) -> Result<u64> {
        succeeded(done)?;
        let mut size = [0; 4];
        client.read_reply(done, 0, &mut size);
        ensure!(u64::from(u32::from_le_bytes(size)) == BLOCK, "a short write");
        Ok(1)
    }
}

impl Load for Getattr {
    fn submit(&mut self, client: &mut Client, lane: u64) -> Result<()> {
        let args = GetattrIn::default();
        let reply = size_of::<AttrOut>() as u32;
        let args: &[&[u8]] = &[args.as_bytes()];
        let call = Call { op: Opcode::Getattr, node: self.node, args, reply, ..Call::default() };
        Ok(client.submit(&call, lane)?)
    }

    fn complete(&mut self, _client: &mut Client, done: &Done) -> Result<u64> {
        succeeded(done)?;
        ensure!(done.len as usize == size_of::<AttrOut>(), "a short reply");
        Ok(1)
    }
}

impl Lookup {
    pub(crate) fn new(parent: u64, names: Vec<String>, errno: i32) -> Self {
        let names = names.into_iter().map(|name| [name.as_bytes(), b"\0"].concat()).collect();
        Lookup { parent, names, next: 0, errno }
    }
}

impl Load for Lookup {
    fn submit(&mut self, client: &mut Client, lane: u64) -> Result<()> {
        let args: &[&[u8]] = &[&self.names[self.next]];
        self.next = (self.next + 1) % self.names.len();
        let reply = size_of::<EntryOut>() as u32;
        let call = Call { op: Opcode::Lookup, node: self.parent, args, reply, ..Call::default() };
        Ok(client.submit(&call, lane)?)
    }

    fn complete(&mut self, _client: &mut Client, done: &Done) -> Result<u64> {
        ensure!(done.errno == self.errno, "errno {} instead of {}", done.errno, self.errno);
        Ok(1)
    }
}
