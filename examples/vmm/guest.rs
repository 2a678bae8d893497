//! A guest's driver: one message at a time, over a split virtqueue, in the FUSE protocol.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use fsrv_transport::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::Result;

/// Where the parts of a queue are in the guest's memory.
pub(crate) struct QueueLayout {
    pub(crate) size: u16,
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
    /// Where the driver puts messages and expects their answers.
    data: u64,
}

impl QueueLayout {
    /// Each queue has 256 KiB.
    pub(crate) fn of(index: usize) -> Self {
        let base = 0x10_0000 + index as u64 * 0x4_0000;
        Self {
            size: 64,
            desc: base,
            avail: base + 0x1000,
            used: base + 0x2000,
            data: base + 0x4000,
        }
    }
}

pub(crate) struct Guest {
    memory: Arc<GuestMemoryMmap<()>>,
    queue: QueueLayout,
    kick: OwnedFd,
    interrupt: OwnedFd,
    sent: u16,
}

/// Opcodes of `<linux/fuse.h>`.
const LOOKUP: u32 = 1;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;

const ROOT: u64 = 1;
const OUT_HEADER: usize = 16;
const ROOM: u32 = 0x2_0000;

/// Flags of a descriptor.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

impl Guest {
    pub(crate) fn new(
        memory: Arc<GuestMemoryMmap<()>>,
        queue: QueueLayout,
        kick: OwnedFd,
        interrupt: OwnedFd,
    ) -> Self {
        Self { memory, queue, kick, interrupt, sent: 0 }
    }

    /// Begins a session: version 7.38, no flags.
    pub(crate) fn init(&mut self) -> Result<()> {
        let body = words(&[7, 38, 0x2_0000, 0]);
        self.call(INIT, 0, &[&body]).map(drop)
    }

    pub(crate) fn read_file(&mut self, name: &str) -> Result<String> {
        let entry = self.call(LOOKUP, ROOT, &[name.as_bytes(), b"\0"])?;
        let node = u64_at(&entry, 0);
        let handle = u64_at(&self.call(OPEN, node, &[&words(&[0, 0])])?, 0);
        let mut text = Vec::new();
        loop {
            let part = self.call(READ, node, &[&read_in(handle, text.len() as u64)])?;
            if part.is_empty() {
                return Ok(String::from_utf8(text)?);
            }
            text.extend(part);
        }
    }

    pub(crate) fn list_root(&mut self) -> Result<Vec<String>> {
        let handle = u64_at(&self.call(OPENDIR, ROOT, &[&words(&[0, 0])])?, 0);
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let entries = self.call(READDIR, ROOT, &[&read_in(handle, offset)])?;
            if entries.is_empty() {
                return Ok(names);
            }
            // Inode, offset of the next entry, length of the name, type, name, padding to 8 bytes.
            let mut rest = &entries[..];
            while rest.len() >= 24 {
                offset = u64_at(rest, 8);
                let len = u32::from_le_bytes(rest[16..20].try_into()?) as usize;
                names.push(String::from_utf8_lossy(&rest[24..24 + len]).into_owned());
                rest = &rest[(24 + len).next_multiple_of(8).min(rest.len())..];
            }
        }
    }

    /// Sends one request and waits for its answer.
    fn call(&mut self, opcode: u32, node: u64, body: &[&[u8]]) -> Result<Vec<u8>> {
        let body = body.concat();
        let len = u32::try_from(40 + body.len())?;
        let mut message = words(&[len, opcode]);
        message.extend(u64::from(self.sent + 1).to_le_bytes());
        message.extend(node.to_le_bytes());
        // The caller's user, group and process, and padding.
        message.extend(words(&[0, 0, 1, 0]));
        message.extend(body);

        let room = self.queue.data + 0x1000;
        self.memory.write_slice(&message, GuestAddress(self.queue.data))?;
        self.describe(0, self.queue.data, len, NEXT)?;
        self.describe(1, room, ROOM, WRITE)?;
        self.publish()?;
        let mut header = [0; OUT_HEADER];
        self.memory.read_slice(&mut header, GuestAddress(room))?;
        let len = u32::from_le_bytes(header[..4].try_into()?) as usize;
        let error = i32::from_le_bytes(header[4..8].try_into()?);
        if error != 0 {
            return Err(std::io::Error::from_raw_os_error(-error).into());
        }
        let mut answer = vec![0; len - OUT_HEADER];
        self.memory.read_slice(&mut answer, GuestAddress(room + OUT_HEADER as u64))?;
        Ok(answer)
    }

    /// Writes a descriptor, which refers to the one behind it if `flags` say so.
    fn describe(&self, index: u16, addr: u64, len: u32, flags: u16) -> Result<()> {
        let mut raw = addr.to_le_bytes().to_vec();
        raw.extend(len.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        raw.extend((index + 1).to_le_bytes());
        let at = self.queue.desc + u64::from(index) * 16;
        Ok(self.memory.write_slice(&raw, GuestAddress(at))?)
    }

    /// Makes the chain at descriptor 0 available and waits until it is used.
    fn publish(&mut self) -> Result<()> {
        let slot = self.queue.avail + 4 + u64::from(self.sent % self.queue.size) * 2;
        self.memory.store(0u16, GuestAddress(slot), Ordering::Relaxed)?;
        // With EVENT_IDX: an interrupt for the next answer.
        let used_event = self.queue.avail + 4 + u64::from(self.queue.size) * 2;
        self.memory.store(self.sent, GuestAddress(used_event), Ordering::Relaxed)?;
        self.sent = self.sent.wrapping_add(1);
        self.memory.store(self.sent, GuestAddress(self.queue.avail + 2), Ordering::Release)?;
        fence(Ordering::SeqCst);
        rustix::io::write(&self.kick, &1u64.to_ne_bytes())?;
        loop {
            let used: u16 =
                self.memory.load(GuestAddress(self.queue.used + 2), Ordering::Acquire)?;
            if used == self.sent {
                return Ok(());
            }
            rustix::io::read(&self.interrupt, &mut [0; 8])?;
        }
    }
}

fn read_in(handle: u64, offset: u64) -> Vec<u8> {
    let mut body = handle.to_le_bytes().to_vec();
    body.extend(offset.to_le_bytes());
    // The size, and what else READ has.
    body.extend(words(&[ROOM - OUT_HEADER as u32, 0, 0, 0, 0, 0]));
    body
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
