//! Who is at the other end of a socket.
#![expect(
    unsafe_code,
    reason = "rustix cannot tell of a peer in a foreign PID namespace, whose pid is 0"
)]

use std::{
    fmt, io,
    mem::{MaybeUninit, size_of},
    os::{fd::AsRawFd, unix::net::UnixStream},
};

/// The process that connected, as it was then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its number, where it is in a PID namespace that we see.
    pub pid: Option<u32>,
}

impl Peer {
    /// Asks the kernel who connected `stream`.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let mut raw = MaybeUninit::<libc::ucred>::uninit();
        let mut len = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: `raw` has `len` bytes, and both are ours.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                raw.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result != 0 || len as usize != size_of::<libc::ucred>() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has written all of it.
        let raw = unsafe { raw.assume_init() };
        Ok(Self {
            uid: raw.uid,
            gid: raw.gid,
            pid: u32::try_from(raw.pid).ok().filter(|&pid| pid > 0),
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}, gid {}", self.uid, self.gid)?;
        match self.pid {
            Some(pid) => write!(f, ", pid {pid}"),
            None => f.write_str(", in another PID namespace"),
        }
    }
}
