//! What no front-end should send, by name: messages and chains, for a test to send one after the other.
//!
//! A connection that dies anywhere is [`Socket::die_after`](crate::Socket::die_after); memory that goes away in the middle of
//! a request is [`Region::file`](crate::Region::file), truncated.

use zerocopy::IntoBytes;

use crate::abi::{AttrOut, GetattrIn, InHeader, Opcode, ROOT};
use crate::client::Client;
use crate::error::Result;
use crate::memory::Region;
use crate::queue::{Descriptor, INDIRECT, NEXT, WRITE};
use crate::vhost_user::{FLAG_NEED_REPLY, FLAG_REPLY, Header, VERSION};

/// A message that is wrong, or right at the wrong time.
#[derive(Clone, Debug)]
pub struct BadMessage {
    /// What is wrong with it.
    pub name: String,
    /// All of it.
    pub bytes: Vec<u8>,
    /// Descriptors to send along, of any kind.
    pub fds: usize,
}

/// Messages to be sent on a fresh connection or in the middle of requests.
pub fn bad_messages() -> Vec<BadMessage> {
    let mut messages = Vec::new();
    let mut add =
        |name: String, bytes: Vec<u8>, fds| messages.push(BadMessage { name, bytes, fds });
    for length in [1, 4, 11] {
        add(format!("{length} bytes of a header"), header(1, VERSION, 0)[..length].to_vec(), 0);
    }
    add("zeros".into(), vec![0; 64], 0);
    add("ones".into(), vec![0xff; 64], 0);
    add("text".into(), b"GET / HTTP/1.0\r\n\r\n".to_vec(), 0);
    for (what, flags) in [("no version", 0), ("version 2", 2), ("a reply", VERSION | FLAG_REPLY)] {
        add(format!("a message with {what}"), header(1, flags, 0).to_vec(), 0);
    }
    for request in [0, 44, 1000, u32::MAX] {
        add(
            format!("request {request}"),
            header(request, VERSION | FLAG_NEED_REPLY, 0).to_vec(),
            0,
        );
    }
    for size in [0x1001, 1 << 20, u32::MAX] {
        add(format!("a body of {size} that does not come"), header(2, VERSION, size).to_vec(), 0);
    }
    add("half of a body".into(), with_body(2, &[0; 8])[..16].to_vec(), 0);
    for request in 1..=43 {
        for (length, fds) in [(0, 0), (0, 1), (7, 0), (8, 0), (8, 8), (200, 0), (4096, 1)] {
            let bytes = with_body(request, &vec![0xa5; length]);
            add(format!("request {request} with {length} bytes and {fds} descriptors"), bytes, fds);
        }
    }
    messages
}

fn header(request: u32, flags: u32, size: u32) -> [u8; 12] {
    zerocopy::transmute!(Header { request, flags, size })
}

fn with_body(request: u32, body: &[u8]) -> Vec<u8> {
    [&header(request, VERSION | FLAG_NEED_REPLY, body.len() as u32)[..], body].concat()
}

/// A chain that is wrong.
#[derive(Clone, Copy, Debug)]
pub struct BadChain {
    /// What is wrong with it.
    pub name: &'static str,
    write: fn(&Scene<'_>),
}

/// A queue with nothing in flight, and a GETATTR in memory that would be right.
struct Scene<'a> {
    client: &'a Client,
    request: u64,
    reply: u64,
}

const REQUEST: u32 = (size_of::<InHeader>() + size_of::<GetattrIn>()) as u32;
const REPLY: u32 = (16 + size_of::<AttrOut>()) as u32;

impl BadChain {
    /// Puts it into the ring of a client with nothing in flight, and kicks. What comes back, if anything does, is for the
    /// queue's own [`has_used`](crate::Queue::has_used) and [`wait`](crate::Queue::wait): no client waits for it.
    pub fn put(&self, client: &mut Client) -> Result<()> {
        let (request, reply) = client.scratch();
        let header = InHeader {
            len: REQUEST,
            opcode: Opcode::Getattr as u32,
            unique: 2,
            nodeid: ROOT,
            ..InHeader::default()
        };
        client.region().write(request, header.as_bytes());
        client.region().write(request + 40, GetattrIn::default().as_bytes());
        (self.write)(&Scene { client, request, reply });
        let queue = client.queue();
        if self.name == JUMP {
            queue.jump(queue.size().wrapping_add(1));
        } else {
            queue.push(if self.name == OUTSIDE { u16::MAX } else { 0 });
        }
        queue.publish()?;
        queue.kick()
    }
}

const JUMP: &str = "the available index jumps over more than the ring";
const OUTSIDE: &str = "a head outside of the ring";

/// Every wrong chain.
pub fn bad_chains() -> Vec<BadChain> {
    fn chain(name: &'static str, write: fn(&Scene<'_>)) -> BadChain {
        BadChain { name, write }
    }
    vec![
        chain(JUMP, |scene| scene.right(0)),
        chain(OUTSIDE, |scene| scene.right(0)),
        chain("a descriptor that is its own next", |scene| {
            scene.set(0, scene.request, REQUEST, NEXT, 0);
        }),
        chain("two descriptors in a circle", |scene| {
            scene.set(0, scene.request, REQUEST, NEXT, 1);
            scene.set(1, scene.reply, REPLY, NEXT | WRITE, 0);
        }),
        chain("a next outside of the ring", |scene| {
            scene.set(0, scene.request, REQUEST, NEXT, u16::MAX);
        }),
        chain("a header that the device writes", |scene| {
            scene.set(0, scene.request, REQUEST, NEXT | WRITE, 1);
            scene.set(1, scene.reply, REPLY, WRITE, 0);
        }),
        chain("readable behind writable", |scene| {
            scene.set(0, scene.reply, REPLY, NEXT | WRITE, 1);
            scene.set(1, scene.request, REQUEST, 0, 0);
        }),
        chain("a header of 39 bytes", |scene| {
            scene.set(0, scene.request, 39, NEXT, 1);
            scene.set(1, scene.reply, REPLY, WRITE, 0);
        }),
        chain("a header without arguments", |scene| {
            scene.set(0, scene.request, 40, NEXT, 1);
            scene.set(1, scene.reply, REPLY, WRITE, 0);
        }),
        chain("no bytes at all", |scene| scene.set(0, scene.request, 0, 0, 0)),
        chain("no place for a reply", |scene| scene.set(0, scene.request, REQUEST, 0, 0)),
        chain("15 bytes for a reply", |scene| {
            scene.set(0, scene.request, REQUEST, NEXT, 1);
            scene.set(1, scene.reply, 15, WRITE, 0);
        }),
        chain("a reply without place for its arguments", |scene| {
            scene.set(0, scene.request, REQUEST, NEXT, 1);
            scene.set(1, scene.reply, 16, WRITE, 0);
        }),
        chain("a request outside of memory", |scene| {
            scene.set(0, 1 << 50, REQUEST, NEXT, 1);
            scene.set(1, scene.reply, REPLY, WRITE, 0);
        }),
        chain("a reply outside of memory", |scene| {
            scene.set(0, scene.request, REQUEST, NEXT, 1);
            scene.set(1, 1 << 50, REPLY, WRITE, 0);
        }),
        chain("an address that overflows", |scene| {
            scene.set(0, scene.request, REQUEST, NEXT, 1);
            scene.set(1, u64::MAX - 10, REPLY, WRITE, 0);
        }),
        chain("a length that leaves the region", |scene| {
            scene.set(0, scene.request, u32::MAX, NEXT, 1);
            scene.set(1, scene.reply, u32::MAX, WRITE, 0);
        }),
        chain("unknown flags", |scene| {
            scene.set(0, scene.request, REQUEST, NEXT | 0xff00, 1);
            scene.set(1, scene.reply, REPLY, WRITE | 0xff00, 0);
        }),
        chain("a table of no entries", |scene| scene.set(0, scene.table(), 0, INDIRECT, 0)),
        chain("a table of half an entry", |scene| scene.set(0, scene.table(), 8, INDIRECT, 0)),
        chain("a table that has a next", |scene| {
            scene.set(0, scene.table(), 32, INDIRECT | NEXT, 1);
            scene.set(1, scene.reply, REPLY, WRITE, 0);
        }),
        chain("a table that the device writes", |scene| {
            scene.set_in_table(0, scene.request, REQUEST, 0, 0);
            scene.set(0, scene.table(), 16, INDIRECT | WRITE, 0);
        }),
        chain("a table in a table", |scene| {
            scene.set_in_table(0, scene.table(), 16, INDIRECT, 0);
            scene.set(0, scene.table(), 16, INDIRECT, 0);
        }),
        chain("a table outside of memory", |scene| scene.set(0, 1 << 50, 32, INDIRECT, 0)),
        chain("a table of 32768 entries in a circle", |scene| {
            scene.set_in_table(0, scene.request, REQUEST, NEXT, 1);
            scene.set_in_table(1, scene.reply, REPLY, NEXT | WRITE, 0);
            scene.set(0, scene.table(), 32_768 * 16, INDIRECT, 0);
        }),
        chain("a table of 32768 entries", |scene| {
            const ENTRIES: u16 = 32_768;
            for at in 0..ENTRIES {
                let last = at + 1 == ENTRIES;
                let flags = WRITE | if last { 0 } else { NEXT };
                scene.set_in_table(at, scene.reply, 1, flags, if last { 0 } else { at + 1 });
            }
            scene.set_in_table(0, scene.request, REQUEST, NEXT, 1);
            scene.set(0, scene.table(), u32::from(ENTRIES) * 16, INDIRECT, 0);
        }),
        chain("a request that is longer than its chain", |scene| {
            scene.client.region().write(scene.request, &u32::MAX.to_le_bytes());
            scene.right(0);
        }),
        chain("an operation that does not exist", |scene| {
            scene.client.region().write(scene.request + 4, &0xffff_u32.to_le_bytes());
            scene.right(0);
        }),
        chain("a node that does not exist", |scene| {
            scene.client.region().write(scene.request + 16, &u64::MAX.to_le_bytes());
            scene.right(0);
        }),
    ]
}

impl Scene<'_> {
    fn set(&self, at: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let descriptor = Descriptor { addr, len, flags, next };
        self.client.ring().set_descriptor(at, descriptor);
    }

    fn set_in_table(&self, at: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let descriptor = Descriptor { addr, len, flags, next };
        self.region().write(self.table() + u64::from(at) * 16, &descriptor.bytes());
    }

    /// The chain as it should be.
    fn right(&self, at: u16) {
        self.set(at, self.request, REQUEST, NEXT, at + 1);
        self.set(at + 1, self.reply, REPLY, WRITE, 0);
    }

    fn region(&self) -> &Region {
        self.client.region()
    }

    /// Where a table has place: behind the reply, aligned. The longest reaches into other slots, which nobody uses.
    fn table(&self) -> u64 {
        (self.reply + u64::from(REPLY)).next_multiple_of(16)
    }
}
