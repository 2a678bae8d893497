//! One session: what was settled with the client, the requests in flight, and how one is answered.

mod early;
mod panics;
mod reset;
mod unanswered;

use std::{
    cell::RefCell,
    ops::Deref,
    pin::pin,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use fsrv_transport::{
    Completion, Config, Message, Notifier, io as file_io,
    mem::{InBuf, OutBuf},
};
use zerocopy::FromBytes;

use crate::{
    abi::*,
    context::{Context, Flight, InFlight, Parking},
    errno::Errno,
    fs::FileSystem,
    init::{Init, Limits},
    op::{Args, Extensions, Grant, Opcode, Operation, Release, ReleaseDir},
    stats::{Requests, SessionStats, ThreadsIo},
    sync,
    types::NodeId,
};

use early::EarlyInterrupts;
use panics::{Caught, caught};
use reset::Reset;
use unanswered::Unanswered;

/// The most requests that may wait for a client on one worker, and the most for other machines beside a quarter of those
/// in flight.
const PARKED_MAX: usize = 1024;

/// The most bytes of arguments, data not counted: the largest attribute with its name, and more
/// than any other request has.
const ARGS_MAX: usize = 128 << 10;

/// Argument buffers above this size are not kept.
const ARGS_KEEP: usize = 8 << 10;

/// What an embedder wants to know of a client; see [`Session::on_begin`].
type OnBegin = dyn Fn(&Init) + Send + Sync;

/// A filesystem and its client.
pub struct Session<F> {
    fs: F,
    limits: Limits,
    on_begin: Option<Box<OnBegin>>,
    begun: AtomicBool,
    /// The client lives on when nobody serves it.
    outlives_workers: bool,
    reset: Reset,
    /// The client sends the short form of SETXATTR.
    setxattr_compat: AtomicBool,
    workers: Mutex<Vec<Arc<Worker>>>,
    /// What workers that are gone have done.
    past: Mutex<SessionStats>,
    io: Mutex<ThreadsIo>,
    early: EarlyInterrupts,
    malformed: AtomicU64,
}

/// One worker, as the session sees it.
pub(crate) struct Worker {
    flights: Mutex<Vec<Arc<Flight>>>,
    requests: Requests,
    in_flight: AtomicU64,
}

/// One worker, as its own thread sees it.
pub(crate) struct Local {
    shared: Arc<Worker>,
    notifier: Option<Arc<dyn Notifier>>,
    pub(crate) parking: Rc<Parking>,
    /// Buffers for arguments, to be used again.
    args: RefCell<Vec<Vec<u8>>>,
}

/// A request of the filesystem, its arguments copied, waiting for a place.
pub(crate) struct Request<C: Completion> {
    opcode: Opcode,
    header: fuse_in_header,
    args: Vec<u8>,
    data: InBuf,
    output: OutBuf,
    completion: Unanswered<C>,
}

impl<F: FileSystem> Session<F> {
    /// A session that has no client yet.
    pub fn new(fs: F, limits: Limits) -> Self {
        Self {
            fs,
            limits,
            on_begin: None,
            begun: AtomicBool::new(false),
            outlives_workers: false,
            reset: Reset::default(),
            setxattr_compat: AtomicBool::new(false),
            workers: Mutex::default(),
            past: Mutex::default(),
            io: Mutex::default(),
            early: EarlyInterrupts::default(),
            malformed: AtomicU64::new(0),
        }
    }

    /// Calls `hook` when a client begins, with what was settled and before the client knows. It runs on
    /// a worker and must not wait.
    #[must_use]
    pub fn on_begin(mut self, hook: impl Fn(&Init) + Send + Sync + 'static) -> Self {
        self.on_begin = Some(Box::new(hook));
        self
    }

    /// Keeps the client when no transport is served any more: one that stops may start again, as the
    /// queues of a virtual machine do. The client ends by [`Session::end`].
    #[must_use]
    pub fn outliving_workers(mut self) -> Self {
        self.outlives_workers = true;
        self
    }

    /// Forgets the client, as DESTROY does. No transport is served meanwhile.
    pub fn end(&self) {
        if self.begun.swap(false, Ordering::SeqCst) {
            self.destroy();
        }
    }

    fn destroy(&self) {
        caught("destroy", || self.fs.destroy());
    }

    fn forget(&self, nodeid: NodeId, nlookup: u64) {
        caught("forget", || self.fs.forget(nodeid, nlookup));
    }

    /// What is being done: each request's number and what it asks for.
    pub fn in_flight(&self) -> Vec<(u64, Opcode)> {
        let workers = lock(&self.workers);
        let flights = workers.iter().flat_map(|worker| lock(&worker.flights).clone());
        flights.filter_map(|flight| flight.request()).collect()
    }

    /// The filesystem.
    pub fn fs(&self) -> &F {
        &self.fs
    }

    /// What a transport of this session must know of the protocol.
    pub fn transport_config(&self) -> Config {
        Config {
            header_split: size_of::<fuse_in_header>() + size_of::<fuse_write_in>(),
            reply_header: size_of::<fuse_out_header>(),
            max_data: self.limits.max_data as usize,
            depth: usize::from(self.limits.max_background) * 2,
        }
    }

    /// What was done so far and what is held now.
    pub fn stats(&self) -> SessionStats {
        let mut stats = lock(&self.past).clone();
        for worker in lock(&self.workers).iter() {
            stats.add(&worker.requests);
            stats.in_flight += worker.in_flight.load(Ordering::Relaxed);
        }
        lock(&self.io).add_to(&mut stats);
        stats.malformed = self.malformed.load(Ordering::Relaxed);
        stats.held = self.fs.stats();
        stats
    }

    /// Adds the calling thread to those that serve this session.
    ///
    /// It has `depth` requests in flight at most. `waiters` more may wait for another client, and half as many for other
    /// machines.
    pub(crate) fn enter(
        &self,
        notifier: Option<Arc<dyn Notifier>>,
        depth: usize,
        waiters: usize,
    ) -> Entered<'_, F> {
        let shared = Arc::new(Worker {
            flights: Mutex::default(),
            requests: Requests::default(),
            in_flight: AtomicU64::new(0),
        });
        lock(&self.io).enter(file_io::counters());
        lock(&self.workers).push(shared.clone());
        let local = Rc::new(Local {
            shared,
            notifier,
            parking: Parking::new(PARKED_MAX.min(waiters), depth / 4 + PARKED_MAX.min(waiters / 2)),
            args: RefCell::default(),
        });
        Entered { session: self, local }
    }

    /// Removes a worker; the last one ends the client's life.
    fn leave(&self, local: &Local) {
        let mut workers = lock(&self.workers);
        workers.retain(|worker| !Arc::ptr_eq(worker, &local.shared));
        let mut past = lock(&self.past);
        past.add(&local.shared.requests);
        lock(&self.io).leave(&file_io::counters(), &mut past);
        drop(past);
        if workers.is_empty() && !self.outlives_workers {
            self.end();
        }
    }

    /// Reads a message. What concerns the session itself is done at once; a request of the
    /// filesystem is returned to be run.
    pub(crate) fn accept<C: Completion>(
        &self,
        local: &Local,
        message: Message<C>,
    ) -> Option<Request<C>> {
        let Message { mut input, output, completion } = message;
        let mut head = [0; size_of::<fuse_in_header>()];
        let header = input.take_front(&mut head).ok().and_then(|()| parse::<fuse_in_header>(&head));
        let Some(header) = header else {
            self.count_malformed("shorter than a header");
            completion.discard();
            return None;
        };
        let completion = Unanswered::new(completion, &header);
        let sent = header.len as usize;
        let Some(body) = sent.checked_sub(head.len()).filter(|&body| body <= input.len()) else {
            self.count_malformed("a length that is not the message's");
            completion.answer(Err(Errno::EINVAL));
            return None;
        };
        input.truncate(body);
        let opcode = match Opcode::from_code(header.opcode) {
            Some(Opcode::SetXattr) if self.setxattr_compat.load(Ordering::Relaxed) => {
                Opcode::SetXattrCompat
            }
            Some(Opcode::SetXattrCompat) | None => {
                completion.answer(Err(Errno::ENOSYS));
                return None;
            }
            Some(opcode) => opcode,
        };
        local.shared.requests.count(opcode);
        let Some(args) = local.copy_args(opcode, &mut input) else {
            self.count_malformed("too few or too many arguments");
            completion.answer(Err(Errno::EINVAL));
            return None;
        };
        let request = Request { opcode, header, args, data: input, output, completion };
        self.own(local, request)
    }

    /// Does what concerns the session itself, and returns what does not.
    fn own<C: Completion>(&self, local: &Local, mut request: Request<C>) -> Option<Request<C>> {
        let nodeid = NodeId(request.header.nodeid);
        let args = &request.args;
        let reply = match request.opcode {
            Opcode::Forget => {
                if let Some(fuse_forget_in { nlookup }) = parse(args) {
                    self.forget(nodeid, nlookup);
                }
                None
            }
            Opcode::BatchForget => {
                self.batch_forget(args, &mut request.data);
                None
            }
            Opcode::Interrupt => {
                let found = parse(args)
                    .is_some_and(|arg: fuse_interrupt_in| self.interrupt(number(arg.unique)));
                // The client asks again as long as the request is not answered.
                (!found).then_some(Err(Errno::EAGAIN))
            }
            // Nothing is ever asked for that this would answer.
            Opcode::NotifyReply => None,
            _ => return Some(request),
        };
        match reply {
            Some(reply) => drop(request.completion.answer(reply)),
            None => request.completion.discard(),
        }
        local.reuse_args(request.args);
        None
    }

    /// A kernel puts as many into one message as its largest write has room for, so the list is not
    /// copied as a whole.
    fn batch_forget(&self, args: &[u8], list: &mut InBuf) {
        let count = parse::<fuse_batch_forget_in>(args).map_or(0, |head| head.count);
        let mut one = [0; size_of::<fuse_forget_one>()];
        for _ in 0..count {
            if list.take_front(&mut one).is_err() {
                return;
            }
            if let Some(fuse_forget_one { nodeid, nlookup }) = parse(&one) {
                self.forget(NodeId(nodeid), nlookup);
            }
        }
    }

    /// Interrupts a request, wherever it is.
    fn interrupt(&self, unique: u64) -> bool {
        if self.find_and_interrupt(unique) {
            return true;
        }
        // Where descriptors are cloned, another worker may have read the request and not begun it.
        self.early.remember(unique);
        let found = self.find_and_interrupt(unique);
        if found {
            self.early.forget(unique);
        }
        found
    }

    fn find_and_interrupt(&self, unique: u64) -> bool {
        let mut found = false;
        // There are two of a request that was sent again.
        for worker in lock(&self.workers).iter() {
            lock(&worker.flights).iter().for_each(|flight| found |= flight.interrupt(unique));
        }
        found
    }

    fn count_malformed(&self, what: &str) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
        tracing::debug!("a malformed message: {what}");
    }

    /// Answers one request.
    pub(crate) async fn run<C: Completion>(
        &self,
        local: Rc<Local>,
        flight: Arc<Flight>,
        request: Request<C>,
    ) {
        if matches!(request.opcode, Opcode::Init | Opcode::Destroy) {
            return self.reset(&local, request).await;
        }
        let Request { opcode, header, args, data, output, completion } = request;
        let _in_flight = self.enter_flight(&local);
        let unique = number(header.unique);
        flight.begin(unique, opcode);
        self.early.deliver(&flight, unique);
        let mut cx = Context {
            unique,
            opcode,
            uid: header.uid,
            gid: header.gid,
            pid: header.pid,
            group: None,
            flight: InFlight(flight),
            parking: local.parking.clone(),
        };
        let reply = match Extensions::split_off(&header, &args) {
            // No filesystem operation before INIT, or while a client ends.
            _ if !self.begun.load(Ordering::SeqCst) => Err(Errno::EIO),
            Ok((bytes, extensions)) => {
                cx.group = extensions.group;
                let mut args = Args::new(bytes, data, output);
                match Operation::decode(opcode, NodeId(header.nodeid), &mut args) {
                    Ok(operation) => {
                        let called = pin!(Some(operation.call(&self.fs, &cx)));
                        Caught::new(opcode.name(), called).await.unwrap_or(Err(Errno::EIO))
                    }
                    Err(errno) => Err(errno),
                }
            }
            Err(errno) => Err(errno),
        };
        local.reuse_args(args);
        let undelivered = completion.answer(reply);
        cx.flight.end();
        if let Some(grant) = undelivered {
            let taken = pin!(Some(self.take_back(&cx, NodeId(header.nodeid), grant)));
            Caught::new("release", taken).await;
        }
    }

    /// Takes back what a reply granted that the client did not get.
    async fn take_back(&self, cx: &Context, asked: NodeId, grant: Grant) {
        match grant {
            Grant::Nothing => {}
            Grant::Lookup(nodeid) => self.forget(nodeid, 1),
            Grant::Lookups(nodes) => nodes.into_iter().for_each(|node| self.forget(node, 1)),
            Grant::Handle(fh) => {
                let release = Release { nodeid: asked, fh, flags: 0, flock_owner: None };
                let _ = self.fs.release(cx, release).await;
            }
            Grant::DirHandle(fh) => {
                let _ = self.fs.releasedir(cx, ReleaseDir { nodeid: asked, fh }).await;
            }
            Grant::Created(nodeid, fh) => {
                let release = Release { nodeid, fh, flags: 0, flock_owner: None };
                let released = pin!(Some(self.fs.release(cx, release)));
                Caught::new("release", released).await;
                self.forget(nodeid, 1);
            }
        }
    }
}

/// A worker among those of its session, for as long as this lives.
pub(crate) struct Entered<'s, F: FileSystem> {
    session: &'s Session<F>,
    local: Rc<Local>,
}

impl<F: FileSystem> Deref for Entered<'_, F> {
    type Target = Rc<Local>;

    fn deref(&self) -> &Rc<Local> {
        &self.local
    }
}

impl<F: FileSystem> Drop for Entered<'_, F> {
    fn drop(&mut self) {
        self.session.leave(&self.local);
    }
}

impl Local {
    /// The flight of place `index`, made when the place is first used.
    pub(crate) fn flight(&self, index: usize) -> Arc<Flight> {
        let mut flights = lock(&self.shared.flights);
        while flights.len() <= index {
            flights.push(Arc::default());
        }
        flights[index].clone()
    }

    /// Interrupts every request in flight: their client is gone.
    pub(crate) fn close(&self) {
        lock(&self.shared.flights).iter().for_each(|flight| flight.close());
    }

    /// Copies the arguments once, before they are read: a client may change them at any time. What
    /// stays in `input` is data. `None` when there are too few or too many.
    fn copy_args(&self, opcode: Opcode, input: &mut InBuf) -> Option<Vec<u8>> {
        let len = match opcode {
            Opcode::Write => size_of::<fuse_write_in>(),
            Opcode::NotifyReply => size_of::<fuse_notify_retrieve_in>(),
            Opcode::BatchForget => size_of::<fuse_batch_forget_in>(),
            _ => input.len(),
        };
        if len > ARGS_MAX {
            return None;
        }
        let mut args = self.args.borrow_mut().pop().unwrap_or_default();
        args.resize(len, 0);
        input.take_front(&mut args).ok()?;
        Some(args)
    }

    fn reuse_args(&self, mut args: Vec<u8>) {
        if args.capacity() <= ARGS_KEEP {
            args.clear();
            self.args.borrow_mut().push(args);
        }
    }
}

/// The number of a request, by which others name it. An answer names it as it came: with one bit more when it was sent
/// again.
fn number(unique: u64) -> u64 {
    unique & !FUSE_UNIQUE_RESEND
}

fn parse<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
