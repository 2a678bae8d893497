//! A mounted filesystem: a connection, its memory, its queues, and INIT done.

use std::path::Path;
use std::sync::Arc;

use crate::abi::{InitOut, init};
use crate::client::{Client, ClientOptions, Framing, Hiprio};
use crate::error::Result;
use crate::frontend::{Frontend, Wanted};
use crate::memory::{Arena, Region};
use crate::queue::{Form, Queue, QueueOptions};
use crate::socket::Socket;
use crate::vhost_user::{feature, protocol_feature};

/// Where guest memory begins: not at zero, so that a forgotten translation shows.
const GUEST_BASE: u64 = 1 << 20;
/// Regions do not touch.
const GAP: u64 = 2 << 20;
/// The most regions that every back-end must accept in one table.
const MAX_REGIONS: usize = 8;

/// What a mount is made with.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Request queues, or as many as the back-end has if those are fewer.
    pub queues: usize,
    /// Entries of every ring.
    pub ring_size: u16,
    /// Entries of every indirect table.
    pub table_len: u16,
    /// Requests in flight at most, on each queue.
    pub depth: u16,
    /// Data of a request at most.
    pub data: u32,
    /// Chains in the ring or in tables.
    pub form: Form,
    /// How messages are cut.
    pub framing: Framing,
    /// What is negotiated.
    pub wanted: Wanted,
    /// FUSE's own flags, and its minor version.
    pub init: (u32, u32),
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            queues: 1,
            ring_size: 256,
            table_len: 8,
            depth: 32,
            data: 64 << 10,
            form: Form::default(),
            framing: Framing::default(),
            wanted: Wanted::default(),
            init: (init::USUAL, 38),
        }
    }
}

/// A mounted filesystem. Dropping it closes the connection.
#[derive(Debug)]
pub struct Mount {
    /// The connection.
    pub frontend: Frontend,
    /// One a request queue, each for a thread of its own.
    pub clients: Vec<Client>,
    /// What the filesystem answered to INIT.
    pub init: InitOut,
    hiprio: Arc<Hiprio>,
    queues: u32,
}

impl Mount {
    /// Connects, starts the queues and mounts.
    pub fn connect(path: &Path, options: &MountOptions) -> Result<Self> {
        Self::on_socket(Socket::connect(path)?, options)
    }

    /// Starts the queues and mounts on a connection to which nothing was said.
    pub fn on_socket(socket: Socket, options: &MountOptions) -> Result<Self> {
        let mut mount = Self::on(Frontend::negotiate(socket, options.wanted)?, options)?;
        let (flags, minor) = options.init;
        mount.init = mount.clients[0].init(flags, minor)?;
        Ok(mount)
    }

    /// Connects and starts the queues, without INIT.
    pub fn connect_only(path: &Path, options: &MountOptions) -> Result<Self> {
        let frontend = Frontend::connect(path, options.wanted)?;
        Self::on(frontend, options)
    }

    /// Gives memory and queues to a connection, without INIT.
    pub fn on(mut frontend: Frontend, options: &MountOptions) -> Result<Self> {
        let queue = QueueOptions {
            size: options.ring_size,
            table_len: if frontend.has(feature::INDIRECT_DESC) { options.table_len } else { 0 },
            event_idx: frontend.has(feature::EVENT_IDX),
        };
        let client = ClientOptions {
            queue: queue.clone(),
            depth: options.depth,
            data: options.data,
            form: options.form,
            framing: options.framing,
        };
        let mut queues = options.queues;
        if frontend.protocol() & protocol_feature::MQ != 0 {
            queues = queues.min(frontend.queue_limit()?.saturating_sub(1) as usize).max(1);
        }
        let hiprio_memory = Hiprio::memory(options.ring_size);
        let mut arenas = arenas(queues, hiprio_memory, client.memory())?;
        let regions: Vec<_> = arenas.iter().map(|arena| Arc::clone(arena.region())).collect();
        frontend.set_memory(&regions)?;

        let hiprio = QueueOptions { table_len: 0, ..queue };
        let hiprio = Arc::new(Hiprio::new(&mut arenas[0], hiprio)?);
        hiprio.with_queue(|queue| frontend.start_queue(0, queue))?;
        let mut clients = Vec::new();
        for number in 0..queues {
            let arena = (number + 1).min(arenas.len() - 1);
            let (options, hiprio) = (client.clone(), Arc::clone(&hiprio));
            let mut client = Client::new(&mut arenas[arena], options, number as u64, hiprio)?;
            frontend.start_queue(number as u32 + 1, client.queue())?;
            clients.push(client);
        }
        let queues = queues as u32;
        Ok(Mount { frontend, clients, init: InitOut::default(), hiprio, queues })
    }

    /// The first client.
    pub fn client(&mut self) -> &mut Client {
        &mut self.clients[0]
    }

    /// The hiprio queue, to stop or to misuse.
    pub fn with_hiprio<R>(&self, f: impl FnOnce(&mut Queue) -> R) -> R {
        self.hiprio.with_queue(f)
    }

    /// Waits until every FORGET was taken.
    pub fn drain_forgets(&self) -> Result<()> {
        self.hiprio.drain()
    }

    /// DESTROY, and the end of every queue, as a guest that shuts down.
    pub fn unmount(mut self) -> Result<()> {
        self.drain_forgets()?;
        self.clients[0].destroy()?;
        for index in 0..=self.queues {
            self.frontend.stop_queue(index)?;
        }
        Ok(())
    }
}

/// The first for hiprio, the others for a client each; one for all if there are too many clients.
fn arenas(clients: usize, hiprio: u64, client: u64) -> Result<Vec<Arena>> {
    let sizes = if clients < MAX_REGIONS {
        let mut sizes = vec![client; clients];
        sizes.insert(0, hiprio);
        sizes
    } else {
        vec![hiprio + client * clients as u64]
    };
    let mut next = GUEST_BASE;
    let mut arenas = Vec::new();
    for size in sizes {
        let size = size.next_multiple_of(4096);
        arenas.push(Arena::new(Region::new(next, size as usize)?));
        next = (next + size + GAP).next_multiple_of(GAP);
    }
    Ok(arenas)
}
