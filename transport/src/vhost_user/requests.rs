//! The messages of one front-end, from the first to the last.

use std::{
    fmt, io,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::net::{RecvFlags, recv};
use vhost::vhost_user::{
    BackendReqHandler, Error as ProtocolError,
    message::{FrontendReq, VhostUserProtocolFeatures},
};

use super::{
    Device,
    error::{Error, Refusal},
    session::Session,
};

/// At most so often the log says that something was refused.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// How the session of a front-end ended.
#[derive(Debug)]
pub struct Ended {
    /// Why, if it did not simply leave.
    pub cause: Option<Error>,
    /// Whether requests of it are still in flight after five seconds. They were given up: their
    /// memory stays mapped, and [`Device::reset`] was not called. Another front-end needs another
    /// device.
    pub is_abandoned: bool,
    /// What these are, for people.
    pub abandoned: Vec<String>,
}

/// Serves one front-end, until it leaves or does what no front-end does, and its requests have ended. It
/// blocks: it wants a thread of its own.
///
/// Nothing that a front-end sends does more than end its session.
pub fn serve_front_end<D: Device + ?Sized>(stream: UnixStream, device: Arc<D>) -> Ended {
    let (cause, session) = match open(stream, device.clone()) {
        Ok((socket, session)) => (serve(socket, &session).err(), session),
        Err(error) => {
            let cause = Some(Error::Socket(error));
            return Ended { cause, is_abandoned: false, abandoned: Vec::new() };
        }
    };
    let is_done = lock(&session).end();
    let abandoned = if is_done { Vec::new() } else { device.in_flight() };
    if is_done {
        device.reset();
    }
    let has_lost_worker = lock(&session).connection.has_lost_worker();
    let cause = if has_lost_worker { Some(Error::WorkerEnded) } else { cause };
    Ended { cause, is_abandoned: !is_done, abandoned }
}

type Shared<D> = Arc<Mutex<Session<D>>>;

fn open<D: Device + ?Sized>(
    stream: UnixStream,
    device: Arc<D>,
) -> io::Result<(UnixStream, Shared<D>)> {
    // The library tries again at once where nothing is there.
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    let session = Session::new(stream.try_clone()?, device);
    Ok((stream, Arc::new(Mutex::new(session))))
}

fn serve<D: Device + ?Sized>(stream: UnixStream, session: &Shared<D>) -> Result<(), Error> {
    let socket = stream.try_clone().map_err(Error::Socket)?;
    let mut handler = BackendReqHandler::from_stream(stream, session.clone());
    let mut complaints = Complaints::default();
    while let Some(head) = Head::peek(&socket).map_err(Error::Socket)? {
        let Err(cause) = handler.handle_request() else { continue };
        let is_told = head.wants_reply
            && lock(session).protocol_features & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0;
        match (lock(session).refusal.take(), cause) {
            (Some(refusal), _) if is_told && refusal.is_survivable() => {
                complaints.complain(&head, &refusal);
            }
            (Some(Refusal::Left), _) => return Ok(()),
            (Some(cause), _) => {
                return Err(Error::Refused { request: head.to_string(), cause });
            }
            (None, ProtocolError::Disconnected | ProtocolError::SocketBroken(_)) => return Ok(()),
            (None, cause) => return Err(Error::Message { request: head.to_string(), cause }),
        }
    }
    Ok(())
}

fn lock<D: ?Sized>(session: &Shared<D>) -> MutexGuard<'_, Session<D>> {
    // Nobody else has it for longer than a call, so this is the state after a panic at worst.
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the next message is, for errors.
struct Head {
    code: Option<FrontendReq>,
    wants_reply: bool,
}

impl Head {
    const LEN: usize = 12;
    const NEED_REPLY: u32 = 1 << 3;

    /// Waits for the next message and looks at it; `None` when the front-end has left.
    fn peek(socket: &UnixStream) -> io::Result<Option<Self>> {
        let mut raw = [0; Self::LEN];
        loop {
            match recv(socket, &mut raw[..], RecvFlags::PEEK) {
                Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                Ok((len, _)) => return Ok(Some(Self::parse(&raw[..len]))),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn parse(raw: &[u8]) -> Self {
        let word = |at: usize| {
            let bytes = raw.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(bytes))
        };
        let code = word(0).and_then(|code| FrontendReq::try_from(code).ok());
        Self { code, wants_reply: word(4).is_some_and(|flags| flags & Self::NEED_REPLY != 0) }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{code:?}"),
            None => f.write_str("message"),
        }
    }
}

/// What was refused, said once in a while.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    fn complain(&mut self, head: &Head, refusal: &Refusal) {
        if self.last.is_some_and(|last| last.elapsed() < COMPLAIN_EVERY) {
            self.unsaid += 1;
            return;
        }
        let more = std::mem::take(&mut self.unsaid);
        tracing::warn!(more, "the front-end's {head} is refused: {refusal}");
        self.last = Some(Instant::now());
    }
}
