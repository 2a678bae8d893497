//! What a client sent, what it will get, and how much of that is filled.

use std::{fmt, ptr::NonNull};

use super::{Pool, PooledBuf};

/// The device-readable bytes of one message: what the client sent.
///
/// It is consumed from the front. Its memory returns to the transport when all of it is consumed, or
/// when it is dropped.
pub struct InBuf {
    /// `None` when nothing is left.
    memory: Option<PooledBuf>,
    start: usize,
    end: usize,
}

impl InBuf {
    /// The bytes `start..end` of `memory`.
    pub(crate) fn new(memory: PooledBuf, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= memory.pages().len());
        Self { memory: Some(memory), start, end }
    }

    /// A copy of `bytes`, in memory of `pool`.
    pub fn copied(pool: &Pool, bytes: &[u8]) -> Self {
        let mut memory = pool.take(bytes.len());
        memory.pages_mut().as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        Self::new(memory, 0, bytes.len())
    }

    /// Bytes left.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the first `into.len()` bytes out and consumes them.
    ///
    /// # Errors
    /// [`NoSpace`] when fewer are left; nothing is consumed then.
    pub fn take_front(&mut self, into: &mut [u8]) -> Result<(), NoSpace> {
        if into.len() > self.len() {
            return Err(NoSpace);
        }
        let end = self.start + into.len();
        into.copy_from_slice(&self.bytes()[..into.len()]);
        self.start = end;
        if self.is_empty() {
            self.memory = None;
        }
        Ok(())
    }

    /// Drops all but the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
    }

    /// Drops the first `len` bytes, or all of them.
    pub fn advance(&mut self, len: usize) {
        self.start += len.min(self.len());
    }

    /// A copy of what is left, for filesystems that keep their data in memory.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes().to_vec()
    }

    fn bytes(&self) -> &[u8] {
        let memory = self.memory.as_ref();
        memory.map_or(&[], |memory| &memory.pages().as_slice()[self.start..self.end])
    }

    /// Where the bytes are. The address holds as long as `self` lives, wherever it is moved.
    pub(crate) fn raw(&self) -> RawSlice {
        let Some(memory) = &self.memory else {
            return RawSlice { start: NonNull::dangling(), len: 0 };
        };
        // SAFETY: `start <= end <= len` of the mapping, by construction.
        let start = unsafe { memory.pages().start().add(self.start) };
        RawSlice { start, len: self.len() }
    }
}

/// The device-writable bytes of one message: room for the reply's data.
///
/// The room is only a number until [`OutBuf::append`] or a file operation needs memory.
pub struct OutBuf {
    room: Room,
    limit: usize,
    filled: usize,
}

enum Room {
    Unclaimed(Pool),
    Claimed(PooledBuf),
}

impl OutBuf {
    /// Room for `limit` bytes, claimed from `pool` when first used.
    pub fn new(pool: &Pool, limit: usize) -> Self {
        Self { room: Room::Unclaimed(pool.clone()), limit, filled: 0 }
    }

    /// How many bytes may still be written.
    pub fn remaining(&self) -> usize {
        self.limit - self.filled
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Lowers the limit to `len` bytes in all; it is never raised.
    #[must_use]
    pub fn limited(mut self, len: usize) -> Self {
        self.limit = self.limit.min(len).max(self.filled);
        self
    }

    /// Adds `bytes` behind what was written.
    ///
    /// # Errors
    /// [`NoSpace`] when they do not fit; nothing is written then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), NoSpace> {
        if bytes.len() > self.remaining() {
            return Err(NoSpace);
        }
        let start = self.filled;
        self.claim().as_mut_slice()[start..start + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
        Ok(())
    }

    /// Ends writing: what was appended is the reply's data.
    pub fn finish(self) -> Filled {
        Filled(self)
    }

    /// Where the rest of the room is, claimed if it was not. The address holds as long as `self`
    /// lives, wherever it is moved.
    pub(crate) fn raw_rest(&mut self) -> RawSlice {
        let (filled, len) = (self.filled, self.remaining());
        // SAFETY: `filled <= limit`, and `claim` gives at least `limit` bytes.
        let start = unsafe { self.claim().start().add(filled) };
        RawSlice { start, len }
    }

    /// Says that the kernel wrote `len` more bytes behind the filled ones.
    pub(crate) fn advance(&mut self, len: usize) {
        assert!(len <= self.remaining(), "the kernel never writes past the room it was given");
        self.filled += len;
    }

    fn claim(&mut self) -> &mut super::pages::Pages {
        if let Room::Unclaimed(pool) = &self.room {
            self.room = Room::Claimed(pool.take(self.limit));
        }
        match &mut self.room {
            Room::Claimed(memory) => memory.pages_mut(),
            Room::Unclaimed(_) => unreachable!("claimed above"),
        }
    }
}

/// An [`OutBuf`] whose written part is the data of a reply.
pub struct Filled(OutBuf);

impl Filled {
    /// Bytes of data.
    pub fn len(&self) -> usize {
        self.0.filled
    }

    /// Whether there is no data.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The data, where it lies in memory of this process.
    pub fn as_host_bytes(&self) -> &[u8] {
        match &self.0.room {
            Room::Claimed(memory) => &memory.pages().as_slice()[..self.0.filled],
            Room::Unclaimed(_) => &[],
        }
    }
}

/// More bytes were asked for, or offered, than there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoSpace;

impl fmt::Display for NoSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the buffer is too short")
    }
}

impl std::error::Error for NoSpace {}

/// An address and a length, for the kernel.
#[derive(Clone, Copy)]
pub(crate) struct RawSlice {
    pub(crate) start: NonNull<u8>,
    pub(crate) len: usize,
}

impl RawSlice {
    /// The length as io_uring and FUSE count it.
    pub(crate) fn len32(self) -> u32 {
        u32::try_from(self.len).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_buf_is_consumed_from_the_front() {
        let mut buf = InBuf::copied(&Pool::new(), b"headname");
        let mut head = [0; 4];
        buf.take_front(&mut head).unwrap();
        assert_eq!((&head, buf.to_vec()), (b"head", b"name".to_vec()));
        assert_eq!(buf.take_front(&mut [0; 5]), Err(NoSpace));
        buf.advance(1);
        buf.truncate(2);
        assert_eq!(buf.to_vec(), b"am");
    }

    #[test]
    fn in_buf_gives_its_memory_back_when_consumed() {
        let pool = Pool::new();
        let mut buf = InBuf::copied(&pool, b"head");
        buf.take_front(&mut [0; 4]).unwrap();
        assert!(pool.idle_bytes() > 0);
        assert_eq!((buf.len(), buf.to_vec()), (0, Vec::new()));
    }

    #[test]
    fn out_buf_takes_no_memory_until_used() {
        let pool = Pool::new();
        drop(OutBuf::new(&pool, 1 << 20));
        assert_eq!(pool.idle_bytes(), 0);
    }

    #[test]
    fn out_buf_refuses_what_does_not_fit_and_stays_whole() {
        let mut out = OutBuf::new(&Pool::new(), 100).limited(5);
        out.append(b"abc").unwrap();
        assert_eq!(out.append(b"def"), Err(NoSpace));
        out.append(b"de").unwrap();
        assert_eq!(out.finish().as_host_bytes(), b"abcde");
    }
}
