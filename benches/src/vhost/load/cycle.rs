//! Loads whose lanes go through several requests for one operation.

use anyhow::Result;
use fsrv_frontend::abi::{CreateIn, EntryOut, Opcode, OpenIn, OpenOut, ReadIn, ReleaseIn};
use fsrv_frontend::{Call, Client, Done, Entries, Payload};
use rustix::fs::OFlags;
use zerocopy::IntoBytes;

use super::{Load, succeeded};

/// READDIRPLUS replies: what a guest's getdents asks for.
const LISTING: u32 = 32 << 10;

/// OPEN, RELEASE.
pub(crate) struct OpenRelease {
    node: u64,
    /// The open file of each lane.
    open: Vec<Option<u64>>,
}

/// CREATE, RELEASE, UNLINK, FORGET.
pub(crate) struct CreateUnlink {
    parent: u64,
    names: Vec<Vec<u8>>,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    Release { node: u64, fh: u64 },
    Unlink { node: u64 },
}

/// OPENDIR, READDIRPLUS to the end, RELEASEDIR.
pub(crate) struct Readdirplus {
    node: u64,
    lanes: Vec<Listing>,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Listing {
    Open,
    Read { fh: u64, offset: u64 },
    Release { fh: u64 },
}

impl OpenRelease {
    pub(crate) fn new(node: u64, lanes: u16) -> Self {
        OpenRelease { node, open: vec![None; lanes.into()] }
    }
}

impl Load for OpenRelease {
    fn submit(&mut self, client: &mut Client, lane: u64) -> Result<()> {
        let node = self.node;
        match self.open[lane as usize] {
            None => open(client, Opcode::Open, node, lane),
            Some(fh) => release(client, Opcode::Release, node, fh, lane),
        }
    }

    fn complete(&mut self, client: &mut Client, done: &Done) -> Result<u64> {
        succeeded(done)?;
        let open = &mut self.open[done.tag as usize];
        if open.take().is_some() {
            return Ok(1);
        }
        *open = Some(client.reply::<OpenOut>(done)?.fh);
        Ok(0)
    }

    fn may_end(&self, lane: u64) -> bool {
        self.open[lane as usize].is_none()
    }
}

impl CreateUnlink {
    pub(crate) fn new(parent: u64, lanes: u16) -> Self {
        let names = (0..lanes).map(|lane| format!("new{lane}\0").into_bytes()).collect();
        CreateUnlink { parent, names, steps: vec![Step::Create; lanes.into()] }
    }
}

impl Load for CreateUnlink {
    fn submit(&mut self, client: &mut Client, lane: u64) -> Result<()> {
        let name = &self.names[lane as usize];
        match self.steps[lane as usize] {
            Step::Create => {
                let flags = (OFlags::RDWR | OFlags::CREATE | OFlags::EXCL).bits();
                let args = CreateIn { flags, mode: 0o100_644, ..CreateIn::default() };
                let reply = (size_of::<EntryOut>() + size_of::<OpenOut>()) as u32;
                let args: &[&[u8]] = &[args.as_bytes(), name];
                let call =
                    Call { op: Opcode::Create, node: self.parent, args, reply, ..Call::default() };
                Ok(client.submit(&call, lane)?)
            }
            Step::Release { node, fh } => release(client, Opcode::Release, node, fh, lane),
            Step::Unlink { .. } => {
                let args: &[&[u8]] = &[name];
                let call = Call { op: Opcode::Unlink, node: self.parent, args, ..Call::default() };
                Ok(client.submit(&call, lane)?)
            }
        }
    }

    fn complete(&mut self, client: &mut Client, done: &Done) -> Result<u64> {
        succeeded(done)?;
        let step = &mut self.steps[done.tag as usize];
        match *step {
            Step::Create => {
                let [node, fh] = ids_of_created(client, done);
                *step = Step::Release { node, fh };
            }
            Step::Release { node, .. } => *step = Step::Unlink { node },
            Step::Unlink { node } => {
                *step = Step::Create;
                client.forget(node, 1)?;
                return Ok(1);
            }
        }
        Ok(0)
    }

    fn may_end(&self, lane: u64) -> bool {
        self.steps[lane as usize] == Step::Create
    }
}

/// Node and file of a CREATE reply: the first fields of its two structs.
fn ids_of_created(client: &Client, done: &Done) -> [u64; 2] {
    [0, size_of::<EntryOut>() as u32].map(|offset| {
        let mut bytes = [0; 8];
        client.read_reply(done, offset, &mut bytes);
        u64::from_le_bytes(bytes)
    })
}

impl Readdirplus {
    pub(crate) fn new(node: u64, lanes: u16) -> Self {
        let lanes = vec![Listing::Open; lanes.into()];
        Readdirplus { node, lanes, buffer: vec![0; LISTING as usize] }
    }
}

impl Load for Readdirplus {
    fn submit(&mut self, client: &mut Client, lane: u64) -> Result<()> {
        let node = self.node;
        match self.lanes[lane as usize] {
            Listing::Open => open(client, Opcode::Opendir, node, lane),
            Listing::Read { fh, offset } => {
                let args = ReadIn { fh, offset, size: LISTING, ..ReadIn::default() };
                let payload = Payload::Receive(LISTING);
                let args: &[&[u8]] = &[args.as_bytes()];
                let call = Call { op: Opcode::Readdirplus, node, args, payload, reply: 0 };
                Ok(client.submit(&call, lane)?)
            }
            Listing::Release { fh } => release(client, Opcode::Releasedir, node, fh, lane),
        }
    }

    fn complete(&mut self, client: &mut Client, done: &Done) -> Result<u64> {
        succeeded(done)?;
        let lane = &mut self.lanes[done.tag as usize];
        match *lane {
            Listing::Open => {
                *lane = Listing::Read { fh: client.reply::<OpenOut>(done)?.fh, offset: 0 };
            }
            Listing::Read { fh, .. } if done.len == 0 => *lane = Listing::Release { fh },
            Listing::Read { ref mut offset, .. } => {
                let bytes = &mut self.buffer[..done.len as usize];
                client.read_reply(done, 0, bytes);
                let mut entries = 0;
                for entry in Entries::new(bytes) {
                    *offset = entry?.dirent.off;
                    entries += 1;
                }
                return Ok(entries);
            }
            Listing::Release { .. } => *lane = Listing::Open,
        }
        Ok(0)
    }

    fn may_end(&self, lane: u64) -> bool {
        self.lanes[lane as usize] == Listing::Open
    }
}

fn open(client: &mut Client, op: Opcode, node: u64, lane: u64) -> Result<()> {
    let args = OpenIn::default();
    let reply = size_of::<OpenOut>() as u32;
    let args: &[&[u8]] = &[args.as_bytes()];
    Ok(client.submit(&Call { op, node, args, reply, ..Call::default() }, lane)?)
}

fn release(client: &mut Client, op: Opcode, node: u64, fh: u64, lane: u64) -> Result<()> {
    let args = ReleaseIn { fh, ..ReleaseIn::default() };
    let args: &[&[u8]] = &[args.as_bytes()];
    Ok(client.submit(&Call { op, node, args, ..Call::default() }, lane)?)
}
