//! Bytes and descriptors over the socket: whole messages, or anything a test wants to send.

use std::cell::Cell;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Error, Result};
use crate::vhost_user::{FLAG_NEED_REPLY, FLAG_REPLY, Header, Request, VERSION};

/// How long a back-end may take to answer a message.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The most descriptors that a message of the protocol carries.
const MAX_FDS: usize = 8;

/// A connection to a back-end, at the level of messages.
#[derive(Debug)]
pub struct Socket {
    stream: UnixStream,
    /// REPLY_ACK was negotiated: every message is answered.
    pub(crate) acknowledged: bool,
    /// Bytes that are still sent before the connection ends.
    life: Cell<Option<usize>>,
}

/// A message as it came.
#[derive(Debug)]
pub struct Message {
    /// Its head.
    pub header: Header,
    /// What followed.
    pub body: Vec<u8>,
    /// Descriptors that came along.
    pub fds: Vec<OwnedFd>,
}

impl Socket {
    /// Connects; nothing is sent yet.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).map_err(Error::std("cannot connect"))?;
        Self::new(stream)
    }

    /// Connects as soon as somebody listens; a server that was just started may not yet.
    pub fn connect_within(path: &Path, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        loop {
            let error = match UnixStream::connect(path) {
                Ok(stream) => return Self::new(stream),
                Err(error) => error,
            };
            let early = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
            if !early || Instant::now() >= deadline {
                return Err(Error::std("cannot connect")(error));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Uses a connected stream.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream
            .set_read_timeout(Some(ANSWER_LIMIT))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_LIMIT)))
            .map_err(Error::std("cannot limit waiting"))?;
        Ok(Socket { stream, acknowledged: false, life: Cell::new(None) })
    }

    /// How long [`receive`](Self::receive) waits.
    pub fn set_limit(&self, limit: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(limit)).map_err(Error::std("cannot limit waiting"))
    }

    /// The stream itself, to shut down or to write to.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Lets the connection end after so many more bytes, wherever in a message that is.
    pub fn die_after(&self, bytes: usize) {
        self.life.set(Some(bytes));
    }

    /// Sends any bytes with any descriptors.
    pub fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let Some(life) = self.life.get() else { return self.send_all(bytes, fds) };
        if life > bytes.len() {
            self.life.set(Some(life - bytes.len()));
            return self.send_all(bytes, fds);
        }
        if life > 0 {
            self.send_all(&bytes[..life], fds)?;
        }
        self.life.set(Some(0));
        // It may have ended already.
        let _ = self.stream.shutdown(Shutdown::Both);
        Err(Error::Gone)
    }

    fn send_all(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Error::NoRoom("more descriptors than a message can carry"));
        }
        let mut sent = 0;
        loop {
            let rest = [IoSlice::new(&bytes[sent..])];
            match sendmsg(&self.stream, &rest, &mut control, SendFlags::NOSIGNAL) {
                Ok(count) => sent += count,
                Err(Errno::INTR) => continue,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Error::Gone),
                Err(errno) => return Err(Error::io("cannot send a message")(errno)),
            }
            if sent >= bytes.len() {
                return Ok(());
            }
            // The descriptors went with the first byte.
            control.clear();
        }
    }

    /// Sends a message and, if the back-end acknowledges messages, waits for its consent.
    pub fn send<T>(&self, request: Request, body: &T, fds: &[BorrowedFd<'_>]) -> Result<()>
    where
        T: IntoBytes + Immutable + ?Sized,
    {
        if !self.acknowledged {
            return self.send_message(request, 0, body.as_bytes(), fds);
        }
        self.send_message(request, FLAG_NEED_REPLY, body.as_bytes(), fds)?;
        match self.answer_to::<u64>(request)? {
            0 => Ok(()),
            value => Err(Error::Refused { request, value }),
        }
    }

    /// Sends a message that has an answer of its own, and waits for it.
    pub fn ask<T, R>(&self, request: Request, body: &T, fds: &[BorrowedFd<'_>]) -> Result<R>
    where
        T: IntoBytes + Immutable + ?Sized,
        R: FromBytes + Immutable + KnownLayout,
    {
        self.send_message(request, 0, body.as_bytes(), fds)?;
        self.answer_to(request)
    }

    /// Sends a message with these flags and waits for nothing.
    pub fn send_message(
        &self,
        request: Request,
        flags: u32,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let size = body.len() as u32;
        let header = Header { request: request as u32, flags: VERSION | flags, size };
        self.send_raw(&[header.as_bytes(), body].concat(), fds)
    }

    /// Waits for the answer to a message; its body must have the size of `R`.
    pub fn answer_to<R: FromBytes + Immutable + KnownLayout>(&self, request: Request) -> Result<R> {
        let message = self.answer(request)?;
        R::read_from_bytes(&message.body).map_err(|_| {
            let size = message.body.len();
            Error::Protocol(format!("the answer to {request:?} has {size} bytes"))
        })
    }

    /// Waits for the answer to a message.
    pub fn answer(&self, request: Request) -> Result<Message> {
        let message = self.receive()?;
        let header = message.header;
        if header.request != request as u32 || header.flags & FLAG_REPLY == 0 {
            return Err(Error::Protocol(format!("{header:?} is no answer to {request:?}")));
        }
        Ok(message)
    }

    /// Waits for one message.
    pub fn receive(&self) -> Result<Message> {
        /// More than any answer of the protocol.
        const LONGEST: u32 = 4096;
        let mut head = [0; size_of::<Header>()];
        let mut fds = Vec::new();
        self.receive_exact(&mut head, &mut fds)?;
        let header = zerocopy::transmute!(head);
        let Header { size, .. } = header;
        if size > LONGEST {
            return Err(Error::Protocol(format!("a message of {size} bytes")));
        }
        let mut body = vec![0; size as usize];
        self.receive_exact(&mut body, &mut fds)?;
        Ok(Message { header, body, fds })
    }

    fn receive_exact(&self, mut into: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<()> {
        while !into.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let got = recvmsg(
                self.stream.as_fd(),
                &mut [IoSliceMut::new(into)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            );
            let count = match got {
                Ok(got) => got.bytes,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Err(Error::Timeout("answer to a message")),
                Err(Errno::CONNRESET | Errno::PIPE) => return Err(Error::Gone),
                Err(errno) => return Err(Error::io("cannot receive a message")(errno)),
            };
            if count == 0 {
                return Err(Error::Gone);
            }
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    fds.extend(rights);
                }
            }
            into = &mut into[count..];
        }
        Ok(())
    }
}
