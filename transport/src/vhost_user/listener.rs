//! Where front-ends connect.

use std::{
    io,
    net::Shutdown,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, chmod, chownat, fchmod, fcntl_setfl, statat},
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
        socket_with, sockopt,
    },
};

use super::{
    error::ListenError,
    file::{OwnFile, PidLock},
    inherited,
    peer::Peer,
};

/// Connections that wait until the one before has left.
const BACKLOG: i32 = 16;

/// Bytes of a socket's path, the kernel's NUL not counted.
const PATH_MAX: usize = 107;

/// A socket to which front-ends connect.
///
/// Beside a socket `SOCKET` that [`bind`](Self::bind) made is `SOCKET.pid`, as virtiofsd has it: a
/// file with the process's number, locked (`flock`) as long as the server runs, so that both refuse
/// the other's socket. It goes with the socket.
pub struct Listener {
    socket: OwnedFd,
    wake: Arc<OwnedFd>,
    files: Mutex<Option<Files>>,
}

/// What goes with the listener, in the order in which it goes: the socket before the lock.
struct Files {
    _socket: OwnFile,
    _lock: PidLock,
}

impl Listener {
    /// Makes the socket `path`. Only the owner may connect, and `group` if there is one, at every
    /// moment. A socket that a dead server left is replaced.
    ///
    /// # Errors
    /// [`ListenError`] says which.
    pub fn bind(path: &Path, group: Option<u32>) -> Result<Self, ListenError> {
        let len = path.as_os_str().as_bytes().len();
        if len > PATH_MAX {
            return Err(ListenError::PathTooLong { path: path.into(), len });
        }
        let failed = |what| {
            move |error: Errno| ListenError::Path { what, path: path.into(), cause: error.into() }
        };
        let address = SocketAddrUnix::new(path).map_err(failed("use the socket path"))?;
        let lock = PidLock::take(path)?;
        remove_stale(path, &address)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(io::Error::from)?;
        // The file gets the mode of the socket, less the umask, which is the whole process's.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(io::Error::from)?;
        bind(&socket, &address).map_err(failed("make the socket"))?;
        let file = OwnFile::find(path)?;
        if let Some(group) = group {
            let group = Some(Gid::from_raw(group));
            chownat(CWD, path, None, group, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("give the group the socket"))?;
            chmod(path, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP)
                .map_err(failed("let the group use the socket"))?;
        }
        listen(&socket, BACKLOG).map_err(failed("listen on the socket"))?;
        let files = Mutex::new(Some(Files { _socket: file, _lock: lock }));
        Ok(Self { socket, wake: wake()?, files })
    }

    /// A listening socket that was inherited. Its file is left alone.
    ///
    /// # Errors
    /// [`ListenError::NotListening`] when it is something else.
    pub fn from_fd(socket: OwnedFd) -> Result<Self, ListenError> {
        let is_listening = sockopt::socket_acceptconn(&socket).unwrap_or(false)
            && sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX)
            && sockopt::socket_type(&socket) == Ok(SocketType::STREAM);
        if !is_listening {
            return Err(ListenError::NotListening { fd: socket.as_raw_fd() });
        }
        // Another process may be faster in accepting what was there.
        fcntl_setfl(&socket, OFlags::RDWR | OFlags::NONBLOCK).map_err(io::Error::from)?;
        Ok(Self { socket, wake: wake()?, files: Mutex::default() })
    }

    /// The listening socket that this process was started with, as descriptor `number`.
    ///
    /// # Errors
    /// [`ListenError::NotListening`] when it is something else, or nothing.
    pub fn inherited(number: RawFd) -> Result<Self, ListenError> {
        let not_listening = ListenError::NotListening { fd: number };
        let Ok(socket) = inherited::take(number) else { return Err(not_listening) };
        Self::from_fd(socket).map_err(|error| match error {
            ListenError::NotListening { .. } => not_listening,
            error => error,
        })
    }

    /// Removes the socket and its lock, as far as they are ours: for a process that ends without
    /// dropping this.
    pub fn remove(&self) {
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Waits for a front-end; `None` when a [`Waker`] was used.
    ///
    /// # Errors
    /// When the process has no more descriptors, for example: it may be tried again later.
    pub fn accept(&self) -> Result<Option<FrontEnd>, ListenError> {
        loop {
            let mut both =
                [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&*self.wake, PollFlags::IN)];
            retry_on_intr(|| poll(&mut both, None)).map_err(io::Error::from)?;
            if !both[1].revents().is_empty() {
                return Ok(None);
            }
            match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(stream) => return Ok(Some(FrontEnd::new(stream.into())?)),
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }

    /// What ends [`accept`](Self::accept), from another thread.
    pub fn waker(&self) -> Waker {
        Waker(self.wake.clone())
    }
}

/// Ends [`Listener::accept`], this time and every later one.
#[derive(Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Ends it.
    pub fn wake(&self) {
        // A counter that is full wakes as well.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

/// A front-end that has connected.
pub struct FrontEnd {
    /// The connection.
    pub stream: UnixStream,
    /// Who it is.
    pub peer: Peer,
}

impl FrontEnd {
    /// Asks the kernel who is at the other end of `stream`.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        Ok(Self { peer: Peer::of(&stream)?, stream })
    }

    /// What hangs up, from another thread. [`serve_front_end`](super::serve_front_end) then ends as
    /// if the front-end had left.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn closer(&self) -> io::Result<Closer> {
        self.stream.try_clone().map(Closer)
    }
}

/// Hangs up on a front-end.
pub struct Closer(UnixStream);

impl Closer {
    /// Hangs up.
    pub fn close(&self) {
        // It may have left.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

fn wake() -> io::Result<Arc<OwnedFd>> {
    Ok(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
}

/// Removes a socket to which nobody listens. The caller has the lock: there is no server that locks.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), ListenError> {
    let failed = |what| {
        move |error: Errno| ListenError::Path { what, path: path.into(), cause: error.into() }
    };
    let stat = match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        found => found.map_err(failed("look at the socket"))?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(ListenError::NoSocket { path: path.into() });
    }
    // With the wrong type, so that a living server does not take this for a front-end.
    let probe = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(io::Error::from)?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => rustix::fs::unlink(path).map_err(failed("replace the socket")),
        Err(Errno::NOENT) => Ok(()),
        Ok(()) | Err(Errno::PROTOTYPE) => {
            Err(ListenError::InUse { path: path.into(), server: "another server".into() })
        }
        Err(error) => Err(failed("find out who serves the socket")(error)),
    }
}
