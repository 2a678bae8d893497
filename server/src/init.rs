//! INIT: what a client can do, and what it is asked to do.

use crate::{
    abi::*,
    errno::{Errno, Result},
    notify::Client,
};

/// The limits that a session gives its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The most data of one request, in bytes.
    pub max_data: u32,
    /// The most requests that the client sends in the background (readahead, writeback, AIO). Linux
    /// takes 12 by itself, which stalls several jobs.
    pub max_background: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_data: 1 << 20, max_background: 256 }
    }
}

/// What is settled with a client when it begins.
pub struct Init {
    minor: u32,
    offered: u64,
    wanted: u64,
    limits: Limits,
    max_readahead: u32,
    client: Option<Client>,
}

/// What every filesystem gets when the client has it: these change no meaning.
const ALWAYS: u64 = FUSE_ASYNC_READ
    | FUSE_BIG_WRITES
    | FUSE_AUTO_INVAL_DATA
    | FUSE_PARALLEL_DIROPS
    | FUSE_ASYNC_DIO
    | FUSE_MAX_PAGES
    | FUSE_SETXATTR_EXT
    | FUSE_INIT_EXT
    | FUSE_HAS_EXPIRE_ONLY;

impl Init {
    /// Whether the client has `flag` (`abi::FUSE_*`).
    pub fn offers(&self, flag: u64) -> bool {
        self.offered & flag == flag
    }

    /// Asks the client for the bits of `flags` that it has.
    pub fn want(&mut self, flags: u64) {
        self.wanted |= flags & self.offered;
    }

    /// The protocol's minor version that both sides speak.
    pub fn minor(&self) -> u32 {
        self.minor
    }

    /// Tells the client that something changed, where the transport can.
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// Whether `flags` were asked for.
    pub(crate) fn wants(&self, flags: u64) -> bool {
        self.wanted & flags == flags
    }

    /// Reads what a client of our major version says.
    pub(crate) fn new(
        head: fuse_init_in_head,
        flags2: u32,
        limits: Limits,
        client: Option<Client>,
    ) -> Result<Self> {
        if head.minor < FUSE_MIN_MINOR_VERSION {
            return Err(Errno::EPROTO);
        }
        let extended = u64::from(head.flags) & FUSE_INIT_EXT != 0;
        let high = if extended { u64::from(flags2) << 32 } else { 0 };
        let offered = u64::from(head.flags) | high;
        let minor = head.minor.min(FUSE_KERNEL_MINOR_VERSION);
        Ok(Self {
            minor,
            offered,
            wanted: ALWAYS & offered,
            limits,
            max_readahead: head.max_readahead,
            client,
        })
    }

    /// The reply to a client whose pages have `page` bytes.
    pub(crate) fn reply(&self, page: usize) -> fuse_init_out {
        let page = u32::try_from(page).unwrap_or(u32::MAX);
        let max_write = if self.wants(FUSE_MAX_PAGES) {
            self.limits.max_data
        } else {
            // What a client sends that knows no other limit: 32 pages.
            self.limits.max_data.min(page.saturating_mul(32))
        };
        fuse_init_out {
            major: FUSE_KERNEL_VERSION,
            minor: self.minor,
            max_readahead: self.max_readahead,
            // The low and the high half.
            flags: self.wanted as u32,
            flags2: (self.wanted >> 32) as u32,
            max_background: self.limits.max_background,
            congestion_threshold: self.limits.max_background / 4 * 3,
            max_write,
            time_gran: 1,
            max_pages: u16::try_from((max_write / page).max(1)).unwrap_or(u16::MAX),
            ..Default::default()
        }
    }
}

/// The answer to a client with a newer major version, which then begins again with ours.
pub(crate) fn our_version() -> fuse_init_out {
    fuse_init_out {
        major: FUSE_KERNEL_VERSION,
        minor: FUSE_KERNEL_MINOR_VERSION,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(flags: u64, page: usize) -> fuse_init_out {
        let head = fuse_init_in_head {
            major: FUSE_KERNEL_VERSION,
            minor: FUSE_KERNEL_MINOR_VERSION,
            // The low half.
            flags: flags as u32,
            ..Default::default()
        };
        Init::new(head, 0, Limits::default(), None).unwrap().reply(page)
    }

    /// A client asks for as many pages of its own in one read, and one that is larger than `max_data` fails.
    #[test]
    fn pages_of_one_request_are_counted_in_pages_of_the_system() {
        for (page, pages) in [(4096, 256), (16 << 10, 64), (64 << 10, 16), (2 << 20, 1)] {
            let reply = reply(FUSE_MAX_PAGES, page);
            assert_eq!((reply.max_write, reply.max_pages), (1 << 20, pages));
        }
        assert_eq!(reply(0, 4096).max_write, 32 * 4096);
        assert_eq!(reply(0, 64 << 10).max_write, 1 << 20);
    }
}
