//! A FUSE client on one request queue.

mod dir;
mod framing;
mod hiprio;
mod ops;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use zerocopy::{FromBytes, IntoBytes};

use crate::abi::{InHeader, Opcode, OutHeader};
use crate::error::{Error, Result};
use crate::memory::{Arena, Region, Segment};
use crate::queue::{Form, Queue, QueueOptions, Ring};
pub use dir::{Entries, Entry};
pub use framing::{Cut, Framing};
use framing::{Direction, FRONT, Place, REPLY};
pub(crate) use hiprio::Hiprio;
pub use ops::lock;

/// How long a client waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What a client is made with.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Of its queue.
    pub queue: QueueOptions,
    /// Requests in flight at most.
    pub depth: u16,
    /// Data of a request at most.
    pub data: u32,
    /// Chains in the ring or in tables.
    pub form: Form,
    /// How messages are cut.
    pub framing: Framing,
}

/// On whose behalf requests are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

/// A request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call<'a> {
    /// What to do.
    pub op: Opcode,
    /// With which node.
    pub node: u64,
    /// What follows the header: structs, and names with their NUL.
    pub args: &'a [&'a [u8]],
    /// The data.
    pub payload: Payload<'a>,
    /// Bytes of a reply's arguments, without header and data.
    pub reply: u32,
}

/// The data of a request.
#[derive(Clone, Copy, Debug, Default)]
pub enum Payload<'a> {
    /// None.
    #[default]
    None,
    /// These bytes follow the arguments.
    Send(&'a [u8]),
    /// So many bytes, whatever the slot holds.
    SendStale(u32),
    /// So many bytes are expected at most.
    Receive(u32),
}

/// A completed request. Its memory is kept until the client is asked for the next.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    slot: u16,
    /// What the submitter said.
    pub tag: u64,
    /// Zero, or why it failed: a positive errno.
    pub errno: i32,
    /// Bytes behind the reply's header.
    pub len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    start: u64,
    place: Place,
    op: Opcode,
    unique: u64,
    tag: u64,
    writable: u32,
}

/// A client, for one thread.
#[derive(Debug)]
pub struct Client {
    queue: Queue,
    region: Arc<Region>,
    options: ClientOptions,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// The slot of each head in flight.
    heads: Vec<u16>,
    /// Completed while something else was awaited.
    early: VecDeque<Done>,
    /// Its memory is still looked at.
    held: Option<u16>,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
    unique: u64,
    caller: Caller,
    limit: Duration,
    hiprio: Arc<Hiprio>,
}

impl ClientOptions {
    /// The guest memory that a client takes.
    pub fn memory(&self) -> u64 {
        let slots = u64::from(self.depth) + 1;
        let tables = u64::from(self.queue.size) * u64::from(self.queue.table_len) * 16;
        let ring = u64::from(self.queue.size) * 26 + 4096;
        slots * Framing::slot_size(self.data) + tables + ring + 4096
    }
}

impl Client {
    pub(crate) fn new(
        arena: &mut Arena,
        options: ClientOptions,
        number: u64,
        hiprio: Arc<Hiprio>,
    ) -> Result<Self> {
        let queue = Queue::new(arena, options.queue.clone())?;
        let size = Framing::slot_size(options.data);
        let slot = |start| {
            let place = Place { request: start, reply: start, data: start };
            Slot { start, place, op: Opcode::default(), unique: 0, tag: 0, writable: 0 }
        };
        // One more than are in flight: that of the request that completed last.
        let slots = (0..=options.depth)
            .map(|_| arena.take(size, 4096).map(slot))
            .collect::<Result<Vec<_>>>()?;
        Ok(Client {
            region: Arc::clone(arena.region()),
            free: (0..=options.depth).rev().collect(),
            heads: vec![0; queue.size().into()],
            queue,
            slots,
            early: VecDeque::new(),
            held: None,
            readable: Vec::new(),
            writable: Vec::new(),
            // Even, as Linux has them, and another range for each queue.
            unique: number << 48,
            caller: Caller::default(),
            limit: ANSWER_LIMIT,
            hiprio,
            options,
        })
    }

    /// The queue, for what no client should do.
    pub fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// The ring of its queue, for what no client should do.
    pub fn ring(&self) -> &Ring {
        self.queue.ring()
    }

    /// Where a request and a reply may be put by hand while nothing is in flight: 8 KiB, and all that follows.
    pub fn scratch(&self) -> (u64, u64) {
        let start = self.slots[0].start;
        (start, start + (8 << 10))
    }

    /// The region in which its messages lie.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// On whose behalf requests are made from now on.
    pub fn set_caller(&mut self, caller: Caller) {
        self.caller = caller;
    }

    /// How messages are cut from now on, and whether chains are tables.
    pub fn set_framing(&mut self, framing: Framing, form: Form) {
        (self.options.framing, self.options.form) = (framing, form);
    }

    /// How long an answer may take from now on.
    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// The most data of a request.
    pub fn data_limit(&self) -> u32 {
        self.options.data
    }

    /// Requests that were not answered.
    pub fn in_flight(&self) -> u16 {
        self.queue.in_flight()
    }

    /// Whether another request can be submitted.
    pub fn has_room(&self) -> bool {
        self.queue.in_flight() < self.options.depth && !self.free.is_empty()
    }

    /// Puts a request into the ring; [`flush`](Self::flush) makes it visible. The answer comes with `tag`.
    pub fn submit(&mut self, call: &Call<'_>, tag: u64) -> Result<()> {
        let slot = self.free.pop().ok_or(Error::NoRoom("the client is at its depth"))?;
        let head = self
            .fill(slot, call, tag)
            .and_then(|()| self.queue.submit(&self.readable, &self.writable, self.options.form));
        match head {
            Ok(head) => self.heads[usize::from(head)] = slot,
            Err(error) => {
                self.free.push(slot);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Lets the device see what was submitted.
    pub fn flush(&mut self) -> Result<()> {
        self.queue.publish()
    }

    /// A completed request, if there is one.
    pub fn poll(&mut self) -> Result<Option<Done>> {
        if let Some(slot) = self.held.take() {
            self.free.push(slot);
        }
        let done = match self.early.pop_front() {
            Some(done) => Some(done),
            None => self.take()?,
        };
        self.held = done.map(|done| done.slot);
        Ok(done)
    }

    /// Flushes and waits for any completed request.
    pub fn wait(&mut self) -> Result<Done> {
        self.flush()?;
        loop {
            if let Some(done) = self.poll()? {
                return Ok(done);
            }
            if self.queue.in_flight() == 0 {
                return Err(Error::NoRoom("nothing is in flight"));
            }
            self.queue.wait(self.limit)?;
        }
    }

    /// Waits until something is completed, or returns at once if nothing is in flight.
    pub fn sleep(&mut self) -> Result<()> {
        if self.queue.in_flight() == 0 || !self.early.is_empty() {
            return Ok(());
        }
        self.queue.wait(self.limit)
    }

    /// Makes a request and waits for its answer. Others that complete meanwhile are kept for [`poll`](Self::poll).
    pub fn call(&mut self, call: &Call<'_>) -> Result<Done> {
        let done = self.call_any(call)?;
        match done.errno {
            0 => Ok(done),
            errno => Err(Error::Fuse { op: name(call.op), errno }),
        }
    }

    /// The same, whatever the answer.
    pub fn call_any(&mut self, call: &Call<'_>) -> Result<Done> {
        /// No tag of a submitter: those come back through `poll` alone.
        const OURS: u64 = u64::MAX;
        if let Some(slot) = self.held.take() {
            self.free.push(slot);
        }
        self.submit(call, OURS)?;
        self.flush()?;
        loop {
            match self.take()? {
                Some(done) if done.tag == OURS => {
                    self.held = Some(done.slot);
                    return Ok(done);
                }
                Some(done) => self.early.push_back(done),
                None => self.queue.wait(self.limit)?,
            }
        }
    }

    /// Takes back a lookup count, on the hiprio queue.
    pub fn forget(&mut self, node: u64, count: u64) -> Result<()> {
        self.unique += 2;
        self.hiprio.forget(node, count, self.unique)
    }

    /// The arguments of a reply.
    pub fn reply<T: FromBytes>(&self, done: &Done) -> Result<T> {
        let len = size_of::<T>();
        if (done.len as usize) < len {
            let message = format!("a reply of {} bytes has to have {len}", done.len);
            return Err(Error::Protocol(message));
        }
        let bytes = self.region.read_vec(self.reply_address(done), len);
        T::read_from_bytes(&bytes).map_err(|_| Error::Protocol("a reply is too short".into()))
    }

    /// Copies what is behind a reply's header, from `offset` on.
    pub fn read_reply(&self, done: &Done, offset: u32, into: &mut [u8]) {
        self.region.read(self.reply_address(done) + u64::from(offset), into);
    }

    fn reply_address(&self, done: &Done) -> u64 {
        self.slots[usize::from(done.slot)].place.reply + size_of::<OutHeader>() as u64
    }

    fn take(&mut self) -> Result<Option<Done>> {
        let Some(used) = self.queue.pop()? else { return Ok(None) };
        let number = self.heads[usize::from(used.head)];
        let slot = &self.slots[usize::from(number)];
        if slot.op == Opcode::Destroy && used.len == 0 {
            // virtiofsd takes the request and writes nothing.
            return Ok(Some(Done { slot: number, tag: slot.tag, errno: 0, len: 0 }));
        }
        let header: OutHeader =
            zerocopy::transmute!(self.region.read_array::<16>(slot.place.reply));
        let valid = header.unique == slot.unique
            && header.len == used.len
            && (16..=slot.writable).contains(&header.len)
            && (-511..=0).contains(&header.error);
        if !valid {
            let (op, unique, writable) = (slot.op, slot.unique, slot.writable);
            return Err(Error::Protocol(format!(
                "{op:?} {unique} with {writable} bytes for its reply got {header:?}, used length {}",
                used.len
            )));
        }
        let len = header.len - 16;
        Ok(Some(Done { slot: number, tag: slot.tag, errno: -header.error, len }))
    }

    /// Writes a request into its slot, and its cuts into `readable` and `writable`.
    fn fill(&mut self, number: u16, call: &Call<'_>, tag: u64) -> Result<()> {
        const HEADER: u32 = size_of::<InHeader>() as u32;
        let args: u32 = call.args.iter().map(|arg| arg.len() as u32).sum();
        let (sent, received) = match call.payload {
            Payload::None => (0, 0),
            Payload::Send(data) => (data.len() as u32, 0),
            Payload::SendStale(len) => (len, 0),
            Payload::Receive(len) => (0, len),
        };
        let reply = 16 + call.reply;
        if u64::from(HEADER + args) > FRONT - REPLY || u64::from(reply) > REPLY {
            return Err(Error::NoRoom("arguments are larger than a slot's place for them"));
        }
        if sent.max(received) > self.options.data {
            return Err(Error::NoRoom("data is larger than a slot's place for it"));
        }
        self.unique += 2;
        let direction = if sent > 0 { Direction::ToDevice } else { Direction::FromDevice };
        let slot = &mut self.slots[usize::from(number)];
        let framing = self.options.framing;
        let place = framing.place(slot.start, direction, HEADER + args, reply);
        *slot = Slot {
            place,
            op: call.op,
            unique: self.unique,
            tag,
            writable: reply + received,
            ..*slot
        };

        let header = InHeader {
            len: HEADER + args + sent,
            opcode: call.op as u32,
            unique: self.unique,
            nodeid: call.node,
            uid: self.caller.uid,
            gid: self.caller.gid,
            pid: self.caller.pid,
            ..InHeader::default()
        };
        self.region.write(place.request, header.as_bytes());
        let mut addr = place.request + u64::from(HEADER);
        for arg in call.args {
            self.region.write(addr, arg);
            addr += arg.len() as u64;
        }
        if let Payload::Send(data) = call.payload {
            self.region.write(place.data, data);
        }
        self.readable.clear();
        self.writable.clear();
        framing.cut(place.request, [HEADER, args, sent], &mut self.readable);
        framing.cut(place.reply, [16, call.reply, received], &mut self.writable);
        Ok(())
    }
}

/// As messages name an operation.
fn name(op: Opcode) -> &'static str {
    match op {
        Opcode::Lookup => "LOOKUP",
        Opcode::Getattr => "GETATTR",
        Opcode::Open => "OPEN",
        Opcode::Read => "READ",
        Opcode::Write => "WRITE",
        Opcode::Create => "CREATE",
        Opcode::Readdirplus => "READDIRPLUS",
        Opcode::Init => "INIT",
        _ => "a request",
    }
}
