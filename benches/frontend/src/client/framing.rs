//! How a message is cut into descriptors. A device must accept any.

use crate::memory::Segment;

/// Bytes before a slot's data: request and reply.
pub(super) const FRONT: u64 = 12 << 10;
/// The part of [`FRONT`] for a reply with the data before or behind it.
pub(super) const REPLY: u64 = 2 << 10;
const PAGE: u64 = 4096;

/// Where to cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// Header, arguments and data: three descriptors, as Linux does it.
    #[default]
    Parts,
    /// All in one.
    Joined,
    /// Everywhere after so many bytes.
    Every(u32),
}

/// The shape of every chain of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// Where to cut.
    pub cut: Cut,
    /// Data starts so many bytes behind the beginning of a page; less than 4096.
    pub shift: u32,
    /// With [`Cut::Parts`]: data is cut into pages, as a guest's page cache has them.
    pub pages: bool,
}

/// The memory of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Where the request begins.
    pub(super) request: u64,
    /// Where the reply begins.
    pub(super) reply: u64,
    /// Where the data begins.
    pub(super) data: u64,
}

/// Which way the data of a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ToDevice,
    FromDevice,
}

impl Framing {
    /// Bytes for a request with so much data.
    pub(super) fn slot_size(data: u32) -> u64 {
        FRONT + u64::from(data).next_multiple_of(PAGE) + PAGE
    }

    /// Where the parts of a message lie in the slot at `start`: what belongs to the data ends where the data begins.
    pub(super) fn place(self, start: u64, direction: Direction, request: u32, reply: u32) -> Place {
        let data = start + FRONT + u64::from(self.shift);
        match direction {
            Direction::ToDevice => Place { request: data - u64::from(request), reply: start, data },
            Direction::FromDevice => Place { request: start, reply: data - u64::from(reply), data },
        }
    }

    /// Cuts parts that follow each other from `start`. The last may be data.
    pub(super) fn cut(self, start: u64, parts: [u32; 3], into: &mut Vec<Segment>) {
        let total: u32 = parts.iter().sum();
        let begin = into.len();
        match self.cut {
            Cut::Joined => into.push(Segment { addr: start, len: total }),
            Cut::Every(bytes) => every(start, total, bytes.max(1), into),
            Cut::Parts => {
                let mut addr = start;
                for (at, len) in parts.into_iter().enumerate() {
                    if at == 2 && self.pages {
                        pages(addr, len, into);
                    } else {
                        into.push(Segment { addr, len });
                    }
                    addr += u64::from(len);
                }
            }
        }
        // A descriptor of no bytes is not allowed.
        let mut at = begin;
        while at < into.len() {
            if into[at].len == 0 {
                into.remove(at);
            } else {
                at += 1;
            }
        }
    }
}

fn every(start: u64, total: u32, bytes: u32, into: &mut Vec<Segment>) {
    for offset in (0..total).step_by(bytes as usize) {
        into.push(Segment { addr: start + u64::from(offset), len: bytes.min(total - offset) });
    }
}

fn pages(start: u64, total: u32, into: &mut Vec<Segment>) {
    let mut offset = 0;
    while offset < total {
        let addr = start + u64::from(offset);
        let len = ((PAGE - addr % PAGE) as u32).min(total - offset);
        into.push(Segment { addr, len });
        offset += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(framing: Framing, start: u64, parts: [u32; 3]) -> Vec<u32> {
        let mut segments = Vec::new();
        framing.cut(start, parts, &mut segments);
        let mut next = start;
        for segment in &segments {
            assert_eq!(segment.addr, next, "no gap and no overlap");
            next += u64::from(segment.len);
        }
        segments.iter().map(|segment| segment.len).collect()
    }

    #[test]
    fn parts_without_bytes_have_no_descriptor() {
        assert_eq!(lengths(Framing::default(), 0, [40, 0, 0]), [40]);
        assert_eq!(lengths(Framing::default(), 0, [40, 16, 4096]), [40, 16, 4096]);
    }

    #[test]
    fn joined_is_one_descriptor() {
        let framing = Framing { cut: Cut::Joined, ..Framing::default() };
        assert_eq!(lengths(framing, 7, [40, 16, 4096]), [4152]);
    }

    #[test]
    fn pieces_do_not_care_what_is_in_them() {
        let framing = Framing { cut: Cut::Every(30), ..Framing::default() };
        assert_eq!(lengths(framing, 0, [40, 16, 10]), [30, 30, 6]);
    }

    #[test]
    fn pages_are_cut_at_their_borders() {
        let framing = Framing { pages: true, ..Framing::default() };
        assert_eq!(lengths(framing, 4096 - 56 + 1, [40, 16, 8192]), [40, 16, 4095, 4096, 1]);
    }

    #[test]
    fn data_follows_its_header_and_does_not_reach_the_other_message() {
        let framing = Framing { shift: 1, ..Framing::default() };
        let write = framing.place(0, Direction::ToDevice, 80, 24);
        assert_eq!((write.request + 80, write.data), (write.data, FRONT + 1));
        assert!(write.reply + 24 <= write.request);
        let read = framing.place(0, Direction::FromDevice, 80, 16);
        assert_eq!(read.reply + 16, read.data);
        assert!(read.request + 80 <= read.reply);
    }
}
