//! The hiprio queue: requests that are not answered and must not wait.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use zerocopy::IntoBytes;

use crate::abi::{ForgetIn, InHeader, Opcode};
use crate::error::Result;
use crate::memory::{Arena, Segment};
use crate::queue::{Form, Queue, QueueOptions};

const MESSAGE: u64 = (size_of::<InHeader>() + size_of::<ForgetIn>()) as u64;
const LIMIT: Duration = Duration::from_secs(30);

/// Shared by the clients of a mount.
#[derive(Debug)]
pub(crate) struct Hiprio(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Queue,
    /// The message of a head lies at its place here.
    messages: u64,
}

impl Hiprio {
    pub(crate) fn memory(size: u16) -> u64 {
        u64::from(size) * (MESSAGE.next_multiple_of(64) + 26) + 8192
    }

    pub(crate) fn new(arena: &mut Arena, options: QueueOptions) -> Result<Self> {
        let messages = arena.take(u64::from(options.size) * MESSAGE, 64)?;
        let queue = Queue::new(arena, options)?;
        Ok(Hiprio(Mutex::new(Inner { queue, messages })))
    }

    /// The queue itself, for control.
    pub(crate) fn with_queue<R>(&self, f: impl FnOnce(&mut Queue) -> R) -> R {
        f(&mut self.lock().queue)
    }

    pub(crate) fn forget(&self, node: u64, count: u64, unique: u64) -> Result<()> {
        let mut inner = self.lock();
        let Inner { queue, messages } = &mut *inner;
        while queue.pop()?.is_some() {}
        while queue.in_flight() == queue.size() {
            queue.publish()?;
            queue.wait(LIMIT)?;
            queue.pop()?;
        }
        let header = InHeader {
            len: MESSAGE as u32,
            opcode: Opcode::Forget as u32,
            unique,
            nodeid: node,
            ..InHeader::default()
        };
        // A chain is one descriptor, so the next head is the next place that is free.
        let addr = *messages + u64::from(queue.next_head()) * MESSAGE;
        queue.region().write(addr, header.as_bytes());
        let body = ForgetIn { nlookup: count };
        queue.region().write(addr + size_of::<InHeader>() as u64, body.as_bytes());
        queue.submit(&[Segment { addr, len: MESSAGE as u32 }], &[], Form::Chained)?;
        queue.publish()
    }

    /// Waits until the device took everything.
    pub(crate) fn drain(&self) -> Result<()> {
        let queue = &mut self.lock().queue;
        while queue.in_flight() > 0 {
            queue.wait(LIMIT)?;
            queue.pop()?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
