//! A front-end that sends what it is told, byte by byte.

use std::{
    fs::File,
    io::{IoSlice, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, ftruncate, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use vhost::vhost_user::message::FrontendReq as Code;

use super::{
    super::{Closer, Ended, FrontEnd, serve_front_end},
    device::{Echo, HEADER},
};

pub(super) const VERSION: u32 = 1;
pub(super) const NEED_REPLY: u32 = 1 << 3;
pub(super) const SIZE: u16 = 8;

/// What is usually negotiated: all but LOG_ALL.
pub(super) const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28;
pub(super) const LOG_ALL: u64 = 1 << 26;
pub(super) const GATED: u64 = 1 << 30;

/// MQ, LOG_SHMFD, REPLY_ACK, CONFIG, RESET_DEVICE, CONFIGURE_MEM_SLOTS.
pub(super) const PROTOCOL: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 9 | 1 << 13 | 1 << 15;

/// A region: guest's address, length, front-end's address, offset in the file.
pub(super) type Region = [u64; 4];

/// Bytes of a region.
pub(super) const LEN: u64 = 1 << 20;

/// Where the rings are.
pub(super) const LOW: Region = [0, LEN, 0x7000_0000_0000, 0];
/// Where messages may be.
pub(super) const HIGH: Region = [1 << 32, LEN, 0x7100_0000_0000, LEN];

const NEXT: u16 = 1;
const WRITE: u16 = 2;

pub(super) struct Client {
    pub(super) socket: UnixStream,
    pub(super) device: Arc<Echo>,
    pub(super) memory: File,
    pub(super) queues: Vec<Queue>,
    /// The other end's, to hang up.
    pub(super) closer: Closer,
    session: JoinHandle<Ended>,
}

/// The driver's side of a ring.
pub(super) struct Queue {
    pub(super) kick: OwnedFd,
    pub(super) call: OwnedFd,
    avail: u16,
}

impl Client {
    /// A front-end that has said nothing yet.
    pub(super) fn connect() -> Self {
        Self::connect_to(Echo::new())
    }

    pub(super) fn connect_to(device: Arc<Echo>) -> Self {
        let (socket, other) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let served = device.clone();
        let front_end = FrontEnd::new(other).unwrap();
        let closer = front_end.closer().unwrap();
        let session = thread::spawn(move || serve_front_end(front_end.stream, served));
        let queues = (0..2).map(|_| Queue { kick: event(), call: event(), avail: 0 }).collect();
        Self { socket, device, memory: memfd(2 * LEN), queues, closer, session }
    }

    /// A front-end that has negotiated and given its memory.
    pub(super) fn ready() -> Self {
        Self::ready_with(FEATURES)
    }

    pub(super) fn ready_with(features: u64) -> Self {
        let mut client = Self::connect();
        client.negotiate(features);
        client
    }

    pub(super) fn negotiate(&mut self, features: u64) {
        self.ask(Code::GET_FEATURES);
        self.send(Code::SET_PROTOCOL_FEATURES, &words(&[PROTOCOL]));
        self.ack(Code::SET_FEATURES, &words(&[features]));
        assert_eq!(self.set_memory(&[LOW, HIGH]), 0);
    }

    /// A front-end whose first queue runs.
    pub(super) fn running() -> Self {
        let mut client = Self::ready();
        client.start(0);
        client
    }

    /// Starts a queue as QEMU does.
    pub(super) fn start(&mut self, index: u32) {
        self.set_up(index, 0);
        self.give_kick(index);
        self.give_call(index);
        assert_eq!(self.enable(index, 1), 0);
    }

    /// Everything but the descriptors.
    pub(super) fn set_up(&mut self, index: u32, base: u32) {
        assert_eq!(self.ack(Code::SET_VRING_NUM, &state(index, SIZE.into())), 0);
        assert_eq!(self.ack(Code::SET_VRING_BASE, &state(index, base)), 0);
        assert_eq!(self.ack(Code::SET_VRING_ADDR, &address(index, None)), 0);
    }

    pub(super) fn give_kick(&mut self, index: u32) {
        let kick = self.queues[index as usize].kick.try_clone().unwrap();
        assert_eq!(self.ack_fds(Code::SET_VRING_KICK, &words(&[index.into()]), &[kick.as_fd()]), 0);
    }

    pub(super) fn give_call(&mut self, index: u32) {
        let call = self.queues[index as usize].call.try_clone().unwrap();
        assert_eq!(self.ack_fds(Code::SET_VRING_CALL, &words(&[index.into()]), &[call.as_fd()]), 0);
    }

    pub(super) fn enable(&mut self, index: u32, enable: u32) -> u64 {
        self.ack(Code::SET_VRING_ENABLE, &state(index, enable))
    }

    pub(super) fn get_base(&mut self, index: u32) -> u32 {
        self.send(Code::GET_VRING_BASE, &state(index, 0));
        let reply = self.reply();
        assert_eq!(reply.len(), 8);
        u32::from_ne_bytes(reply[4..].try_into().unwrap())
    }

    pub(super) fn set_memory(&mut self, regions: &[Region]) -> u64 {
        let mut body = words(&[regions.len() as u64]);
        regions.iter().for_each(|region| body.extend(words(region)));
        let memory = self.memory.try_clone().unwrap();
        self.ack_fds(Code::SET_MEM_TABLE, &body, &vec![memory.as_fd(); regions.len()])
    }

    pub(super) fn add(&mut self, region: Region) -> u64 {
        let memory = self.memory.try_clone().unwrap();
        self.ack_fds(Code::ADD_MEM_REG, &single(region), &[memory.as_fd()])
    }

    /// Asks for a number.
    pub(super) fn ask(&mut self, code: Code) -> u64 {
        self.send(code, &[]);
        number(&self.reply())
    }

    /// Whether it was refused.
    pub(super) fn ack(&mut self, code: Code, body: &[u8]) -> u64 {
        self.ack_fds(code, body, &[])
    }

    pub(super) fn ack_fds(&mut self, code: Code, body: &[u8], fds: &[BorrowedFd<'_>]) -> u64 {
        self.message(code as u32, VERSION | NEED_REPLY, body, fds);
        number(&self.reply())
    }

    pub(super) fn send(&mut self, code: Code, body: &[u8]) {
        self.message(code as u32, VERSION, body, &[]);
    }

    pub(super) fn message(&mut self, code: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        let len = body.len() as u32;
        let mut bytes = [code, flags, len].map(u32::to_ne_bytes).concat();
        bytes.extend(body);
        self.raw(&bytes, fds);
    }

    /// Sends `bytes`, whatever they are.
    pub(super) fn raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        let sent = sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(bytes.len()));
    }

    /// The body of a reply.
    pub(super) fn reply(&mut self) -> Vec<u8> {
        let mut head = [0; 12];
        self.socket.read_exact(&mut head).expect("a reply");
        let mut body = vec![0; u32::from_ne_bytes(head[8..].try_into().unwrap()) as usize];
        self.socket.read_exact(&mut body).unwrap();
        body
    }

    /// Whether the other end hung up.
    pub(super) fn is_hung_up(&mut self) -> bool {
        matches!(self.socket.read(&mut [0; 12]), Ok(0) | Err(_))
    }

    /// Leaves, and waits for the end of the session.
    pub(super) fn leave(self) -> (Ended, Arc<Echo>) {
        drop(self.socket);
        (self.session.join().expect("a session does not panic"), self.device)
    }

    /// Waits for the end of the session, which the other end has to bring about.
    pub(super) fn ended(mut self) -> Ended {
        assert!(self.is_hung_up());
        self.session.join().expect("a session does not panic")
    }

    /// Puts a message into chain `head` of a queue, in the region `at`, and kicks.
    pub(super) fn put(&mut self, index: u32, head: u16, at: Region, bytes: &[u8]) {
        self.offer(index, head, at, bytes);
        self.kick(index);
    }

    pub(super) fn offer(&mut self, index: u32, head: u16, at: Region, bytes: &[u8]) {
        let offset = message_offset(head);
        self.memory.write_all_at(bytes, at[3] + offset).unwrap();
        self.describe(index, head, (at[0] + offset, bytes.len() as u32, NEXT, head + 1));
        self.describe(index, head + 1, (at[0] + offset + 0x800, 0x800, WRITE, 0));
        let queue = &mut self.queues[index as usize];
        let slot = ring(index) + 0x1000 + 4 + u64::from(queue.avail % SIZE) * 2;
        queue.avail = queue.avail.wrapping_add(1);
        self.memory.write_all_at(&head.to_le_bytes(), slot).unwrap();
        let avail = queue.avail.to_le_bytes();
        self.memory.write_all_at(&avail, ring(index) + 0x1000 + 2).unwrap();
    }

    pub(super) fn kick(&self, index: u32) {
        rustix::io::write(&self.queues[index as usize].kick, &1u64.to_ne_bytes()).unwrap();
    }

    fn describe(&self, index: u32, at: u16, (addr, len, flags, next): (u64, u32, u16, u16)) {
        let mut raw = addr.to_le_bytes().to_vec();
        raw.extend(len.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        raw.extend(next.to_le_bytes());
        self.memory.write_all_at(&raw, ring(index) + u64::from(at) * 16).unwrap();
    }

    /// The used index.
    pub(super) fn used(&self, index: u32) -> u16 {
        let mut used = [0; 2];
        self.memory.read_exact_at(&mut used, ring(index) + 0x2000 + 2).unwrap();
        u16::from_le_bytes(used)
    }

    pub(super) fn wait_for_used(&self, index: u32, count: u16) {
        eventually(|| self.used(index) == count);
    }

    /// Whether chain `head` was answered as it should be.
    pub(super) fn is_echoed(&self, head: u16, at: Region, bytes: &[u8]) -> bool {
        let mut reply = vec![0; HEADER.len() + bytes.len()];
        self.memory.read_exact_at(&mut reply, at[3] + message_offset(head) + 0x800).unwrap();
        reply == [&HEADER[..], bytes].concat()
    }

    /// How often the driver was called since the last time.
    pub(super) fn calls(&self, index: u32) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.queues[index as usize].call, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            _ => 0,
        }
    }
}

/// Where the ring of a queue begins, in the low region.
pub(super) fn ring(index: u32) -> u64 {
    u64::from(index) * 0x10000
}

/// Where the message of chain `head` is in its region.
pub(super) fn message_offset(head: u16) -> u64 {
    0x80000 + u64::from(head) * 0x1000
}

pub(super) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub(super) fn state(index: u32, number: u32) -> Vec<u8> {
    [index, number].map(u32::to_ne_bytes).concat()
}

pub(super) fn single(region: Region) -> Vec<u8> {
    [words(&[0]), words(&region)].concat()
}

/// The ring of a queue, as SET_VRING_ADDR has it.
pub(super) fn address(index: u32, log: Option<u64>) -> Vec<u8> {
    let at = LOW[2] + ring(index);
    let addresses = words(&[at, at + 0x2000, at + 0x1000, log.unwrap_or(0)]);
    [state(index, log.is_some().into()), addresses].concat()
}

pub(super) fn number(body: &[u8]) -> u64 {
    u64::from_ne_bytes(body.try_into().expect("a number"))
}

pub(super) fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

pub(super) fn memfd(len: u64) -> File {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, len).unwrap();
    file
}

/// Waits until it is so.
pub(super) fn eventually(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "it did not come to that");
        thread::sleep(Duration::from_millis(2));
    }
}
