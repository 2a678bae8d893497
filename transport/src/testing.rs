//! A transport in memory, with which a filesystem is tested without root or a mount.
//!
//! A [`MemClient`] sends raw messages and sees what became of each: an [`Outcome`]. As many
//! [`MemTransport`]s as wanted take from its queue, as cloned `/dev/fuse` descriptors do. Replies
//! become visible when the transport is flushed, not before.

mod engines;

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use crate::{
    mem::{Filled, InBuf, OutBuf, Pool},
    transport::{Completion, Message, Notifier, Transport},
};

pub use engines::{engines, with_uring};

/// The client's end: sends messages and collects replies. Clones are the same client.
#[derive(Clone, Default)]
pub struct MemClient(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    pool: Pool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Queued>,
    exchanges: Vec<Slot>,
    free: Vec<usize>,
    lines: Vec<Line>,
    end: End,
    violations: Vec<&'static str>,
    notifications: Vec<Vec<u8>>,
    flushes: u64,
}

struct Queued {
    exchange: usize,
    input: InBuf,
    room: usize,
}

/// What one transport has answered and not flushed yet, and who waits for its next message.
#[derive(Default)]
struct Line {
    receiver: Option<Waker>,
    unflushed: Vec<usize>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    Stopped,
    HungUp,
    Failed(io::ErrorKind),
}

/// One message and what became of it. Slots and their buffers are used again.
#[derive(Default)]
struct Slot {
    stage: Stage,
    abandoned: bool,
    /// Nobody will ask for the outcome.
    forsaken: bool,
    bytes: Vec<u8>,
    waiter: Option<Waker>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    #[default]
    Queued,
    Received,
    /// Answered, but not flushed.
    Answered(Kind),
    Done(Kind),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Replied,
    Refused,
    Discarded,
    Dropped,
    Lost,
}

/// What became of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The reply: header, fixed part and data.
    Replied(Vec<u8>),
    /// The reply that the client no longer wanted.
    Refused(Vec<u8>),
    /// It was ended without a reply.
    Discarded,
    /// Its completion was dropped unused: a violation.
    Dropped,
    /// The transport ended before anybody received it.
    Lost,
}

impl MemClient {
    /// A client whose queue is empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another transport that takes from this client's queue, with at most `depth` in flight.
    pub fn transport(&self, depth: usize) -> MemTransport {
        let mut state = self.0.lock();
        state.lines.push(Line::default());
        MemTransport { shared: self.0.clone(), line: state.lines.len() - 1, depth }
    }

    /// Queues `message`, with room for `room` bytes of reply data.
    pub fn send(&self, message: &[u8], room: usize) -> Exchange {
        let input = InBuf::copied(&self.0.pool, message);
        let mut state = self.0.lock();
        let exchange = state.new_exchange();
        if state.end == End::Open {
            state.queue.push_back(Queued { exchange, input, room });
            state.wake_receivers();
        } else {
            state.finish(exchange, Kind::Lost);
        }
        Exchange { shared: self.0.clone(), index: exchange }
    }

    /// The queue stops: nothing more is received, and what is in flight is still answered.
    pub fn stop(&self) {
        self.0.end(End::Stopped);
    }

    /// The client dies: nothing more is received, and replies find nobody.
    pub fn hang_up(&self) {
        self.0.end(End::HungUp);
    }

    /// The transports fail with an error of `kind`, and replies find nobody.
    pub fn fail(&self, kind: io::ErrorKind) {
        self.0.end(End::Failed(kind));
    }

    /// A stopped, dead or failed client begins again, with new transports.
    pub fn restart(&self) {
        self.0.lock().end = End::Open;
    }

    /// Messages that no transport has received yet.
    pub fn queued(&self) -> usize {
        self.0.lock().queue.len()
    }

    /// Messages received and not answered.
    pub fn in_flight(&self) -> usize {
        let state = self.0.lock();
        state.exchanges.iter().filter(|slot| slot.stage == Stage::Received).count()
    }

    /// How often a transport signalled completions.
    pub fn flushes(&self) -> u64 {
        self.0.lock().flushes
    }

    /// What broke the rule that each message is completed exactly once.
    pub fn violations(&self) -> Vec<&'static str> {
        self.0.lock().violations.clone()
    }

    /// The unsolicited messages since the last call.
    pub fn take_notifications(&self) -> Vec<Vec<u8>> {
        mem::take(&mut self.0.lock().notifications)
    }
}

/// A message on its way. Resolves to its outcome; dropped, nobody asks for it.
#[must_use]
pub struct Exchange {
    shared: Arc<Shared>,
    index: usize,
}

impl Exchange {
    /// The outcome, if it is known.
    pub fn outcome(&self) -> Option<Outcome> {
        let state = self.shared.lock();
        let slot = &state.exchanges[self.index];
        let Stage::Done(kind) = slot.stage else { return None };
        Some(kind.outcome(slot.bytes.clone()))
    }

    /// Waits for the outcome and shows `look` the bytes of the reply, without an allocation.
    pub async fn look<R>(self, look: impl FnOnce(&[u8]) -> R) -> R {
        poll_fn(|cx| if self.is_done(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        look(&self.shared.lock().exchanges[self.index].bytes)
    }

    /// The sender no longer wants the reply: `NotFound` is what the server gets for it.
    pub fn abandon(&self) {
        self.shared.lock().exchanges[self.index].abandoned = true;
    }

    /// Whether some transport has received it.
    pub fn is_received(&self) -> bool {
        self.shared.lock().exchanges[self.index].stage != Stage::Queued
    }

    fn is_done(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.shared.lock();
        let slot = &mut state.exchanges[self.index];
        let is_done = matches!(slot.stage, Stage::Done(_));
        if !is_done {
            slot.waiter = Some(cx.waker().clone());
        }
        is_done
    }
}

impl Future for Exchange {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        if !self.is_done(cx) {
            return Poll::Pending;
        }
        Poll::Ready(self.outcome().expect("done"))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let slot = &mut state.exchanges[self.index];
        slot.forsaken = true;
        if matches!(slot.stage, Stage::Done(_)) {
            state.free.push(self.index);
        }
    }
}

/// The server's end.
pub struct MemTransport {
    shared: Arc<Shared>,
    line: usize,
    depth: usize,
}

impl Transport for MemTransport {
    type Completion = MemCompletion;

    fn depth(&self) -> usize {
        self.depth
    }

    async fn recv(&mut self) -> io::Result<Option<Message<MemCompletion>>> {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            match state.end {
                End::Open => {}
                End::Stopped | End::HungUp => return Poll::Ready(Ok(None)),
                End::Failed(kind) => return Poll::Ready(Err(kind.into())),
            }
            let Some(Queued { exchange, input, room }) = state.queue.pop_front() else {
                let receiver = &mut state.lines[self.line].receiver;
                if !receiver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *receiver = Some(cx.waker().clone());
                }
                return Poll::Pending;
            };
            state.exchanges[exchange].stage = Stage::Received;
            let output = OutBuf::new(&self.shared.pool, room);
            let shared = self.shared.clone();
            let completion = MemCompletion { shared, line: self.line, exchange, room, used: false };
            Poll::Ready(Ok(Some(Message { input, output, completion })))
        })
        .await
    }

    fn flush(&mut self) {
        let mut state = self.shared.lock();
        let mut unflushed = mem::take(&mut state.lines[self.line].unflushed);
        state.flushes += u64::from(!unflushed.is_empty());
        for exchange in unflushed.drain(..) {
            if let Stage::Answered(kind) = state.exchanges[exchange].stage {
                state.finish(exchange, kind);
            }
        }
        state.lines[self.line].unflushed = unflushed;
    }

    fn notifier(&self) -> Option<Arc<dyn Notifier>> {
        Some(self.shared.clone())
    }

    fn trim(&mut self) -> bool {
        self.shared.pool.trim()
    }
}

impl Drop for MemTransport {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Answers one message of a [`MemClient`].
pub struct MemCompletion {
    shared: Arc<Shared>,
    line: usize,
    exchange: usize,
    room: usize,
    used: bool,
}

impl Completion for MemCompletion {
    fn reply(mut self, header: &[u8], fixed: &[u8], data: Option<Filled>) -> io::Result<()> {
        self.used = true;
        let mut state = self.shared.lock();
        let data = data.as_ref().map_or(&[][..], Filled::as_host_bytes);
        if data.len() > self.room {
            state.violations.push("a reply with more data than there was room for");
        }
        let is_gone = !matches!(state.end, End::Open | End::Stopped);
        let slot = &mut state.exchanges[self.exchange];
        slot.bytes.clear();
        for part in [header, fixed, data] {
            slot.bytes.extend_from_slice(part);
        }
        let refused = slot.abandoned || is_gone;
        state.answer(&self, if refused { Kind::Refused } else { Kind::Replied });
        if refused { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }

    fn discard(mut self) {
        self.used = true;
        self.shared.lock().answer(&self, Kind::Discarded);
    }
}

impl Drop for MemCompletion {
    fn drop(&mut self) {
        if !self.used {
            let mut state = self.shared.lock();
            state.violations.push("a completion was dropped unused");
            state.answer(self, Kind::Dropped);
        }
    }
}

impl Notifier for Shared {
    fn notify(&self, parts: &[&[u8]]) -> io::Result<()> {
        self.lock().notifications.push(parts.concat());
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        state.end = end;
        while let Some(Queued { exchange, .. }) = state.queue.pop_front() {
            state.finish(exchange, Kind::Lost);
        }
        state.wake_receivers();
    }
}

impl State {
    fn new_exchange(&mut self) -> usize {
        let Some(index) = self.free.pop() else {
            self.exchanges.push(Slot::default());
            return self.exchanges.len() - 1;
        };
        let slot = &mut self.exchanges[index];
        let mut bytes = mem::take(&mut slot.bytes);
        bytes.clear();
        *slot = Slot { bytes, ..Slot::default() };
        index
    }

    fn wake_receivers(&mut self) {
        self.lines.iter_mut().filter_map(|line| line.receiver.take()).for_each(Waker::wake);
    }

    fn answer(&mut self, completion: &MemCompletion, kind: Kind) {
        let slot = &mut self.exchanges[completion.exchange];
        if slot.stage != Stage::Received {
            self.violations.push("a message was completed twice");
        }
        slot.stage = Stage::Answered(kind);
        self.lines[completion.line].unflushed.push(completion.exchange);
    }

    fn finish(&mut self, exchange: usize, kind: Kind) {
        let slot = &mut self.exchanges[exchange];
        slot.stage = Stage::Done(kind);
        if let Some(waiter) = slot.waiter.take() {
            waiter.wake();
        }
        if slot.forsaken {
            self.free.push(exchange);
        }
    }
}

impl Kind {
    fn outcome(self, bytes: Vec<u8>) -> Outcome {
        match self {
            Self::Replied => Outcome::Replied(bytes),
            Self::Refused => Outcome::Refused(bytes),
            Self::Discarded => Outcome::Discarded,
            Self::Dropped => Outcome::Dropped,
            Self::Lost => Outcome::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reply_is_seen_when_it_is_flushed() {
        let client = MemClient::new();
        let mut transport = client.transport(1);
        let exchange = client.send(b"ask", 16);
        let message = transport.recv().await.unwrap().unwrap();
        assert_eq!(message.input.to_vec(), b"ask");
        message.completion.reply(b"head", b"fixed", None).unwrap();
        assert_eq!(exchange.outcome(), None);
        transport.flush();
        assert_eq!(exchange.await, Outcome::Replied(b"headfixed".to_vec()));
        assert!(client.violations().is_empty());
    }

    #[tokio::test]
    async fn a_reply_that_nobody_waits_for_is_refused() {
        let client = MemClient::new();
        let mut transport = client.transport(1);
        let exchange = client.send(b"ask", 0);
        exchange.abandon();
        let message = transport.recv().await.unwrap().unwrap();
        let refused = message.completion.reply(b"", b"", None).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_completion_that_is_dropped_is_a_violation() {
        let client = MemClient::new();
        let mut transport = client.transport(1);
        let exchange = client.send(b"ask", 0);
        drop(transport.recv().await.unwrap().unwrap());
        transport.flush();
        assert_eq!(exchange.await, Outcome::Dropped);
        assert_eq!(client.violations().len(), 1);
    }

    #[tokio::test]
    async fn what_was_not_received_when_the_client_dies_is_lost() {
        let client = MemClient::new();
        let mut transport = client.transport(1);
        let exchange = client.send(b"ask", 0);
        client.hang_up();
        assert!(transport.recv().await.unwrap().is_none());
        assert_eq!(exchange.await, Outcome::Lost);
    }
}
