//! What a client sent, what it will get, and how much of that is filled.

use std::{fmt, mem, sync::Arc};

use super::{
    Pool, PooledBuf,
    chain::{Chain, Cursor, Slices, iovec},
};

/// The device-readable bytes of one message: what the client sent.
///
/// It is consumed from the front. Its memory returns to the transport when all of it is consumed, or
/// when it is dropped.
pub struct InBuf {
    memory: Source,
    start: usize,
    end: usize,
}

enum Source {
    /// Nothing is left.
    Nothing,
    Host(PooledBuf),
    /// What is left begins at the cursor.
    Guest(Arc<Chain>, Cursor),
}

impl InBuf {
    /// The bytes `start..end` of `memory`.
    pub(crate) fn new(memory: PooledBuf, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= memory.pages().len());
        Self { memory: Source::Host(memory), start, end }
    }

    /// The readable bytes of `chain`.
    pub(crate) fn of_guest(chain: Arc<Chain>) -> Self {
        let end = chain.readable().len();
        Self { memory: Source::Guest(chain, Cursor::default()), start: 0, end }
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

    /// Whether the bytes lie in memory of the client, a virtual machine, which takes it back with the answer.
    pub fn is_in_client(&self) -> bool {
        matches!(self.memory, Source::Guest(..))
    }

    /// Copies the first `into.len()` bytes out and consumes them.
    ///
    /// # Errors
    /// [`NoSpace`] when fewer are left; nothing is consumed then.
    pub fn take_front(&mut self, into: &mut [u8]) -> Result<(), NoSpace> {
        if into.len() > self.len() {
            return Err(NoSpace);
        }
        match &mut self.memory {
            Source::Nothing => {}
            Source::Host(memory) => {
                into.copy_from_slice(&memory.pages().as_slice()[self.start..][..into.len()]);
            }
            Source::Guest(chain, at) => chain.read(at, into),
        }
        self.start += into.len();
        if self.is_empty() {
            self.memory = Source::Nothing;
        }
        Ok(())
    }

    /// Drops all but the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
    }

    /// Drops the first `len` bytes, or all of them.
    pub fn advance(&mut self, len: usize) {
        let len = len.min(self.len());
        self.start += len;
        if let Source::Guest(chain, at) = &mut self.memory {
            chain.readable().advance(at, len);
        }
    }

    /// Hides all but the first `len` bytes, until [`InBuf::widen`] gets the result.
    pub(crate) fn narrow(&mut self, len: usize) -> usize {
        let end = self.end;
        self.truncate(len);
        end
    }

    pub(crate) fn widen(&mut self, end: usize) {
        self.end = end;
    }

    /// A copy of what is left, for filesystems that keep their data in memory.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        match &self.memory {
            Source::Nothing => {}
            Source::Host(memory) => {
                bytes.copy_from_slice(&memory.pages().as_slice()[self.start..self.end]);
            }
            Source::Guest(chain, at) => chain.read(&mut { *at }, &mut bytes),
        }
        bytes
    }

    /// Where the bytes are. The addresses hold as long as `self` lives, wherever it is moved.
    pub(crate) fn slices(&self) -> Slices {
        match &self.memory {
            Source::Nothing => Slices::One(iovec(std::ptr::null_mut(), 0)),
            // `start <= end <= len` of the mapping, by construction.
            Source::Host(memory) => Slices::One(memory.pages().iovec(self.start, self.len())),
            Source::Guest(chain, at) => chain.readable().slices(*at, self.len()),
        }
    }

    /// A copy in whole pages of this process, when the bytes are in a guest's memory.
    pub(crate) fn bounced(&self) -> Option<Self> {
        let Source::Guest(chain, at) = &self.memory else { return None };
        let mut memory = chain.pool().take(self.len());
        chain.read(&mut { *at }, &mut memory.pages_mut().as_mut_slice()[..self.len()]);
        Some(Self::new(memory, 0, self.len()))
    }
}

/// The device-writable bytes of one message: room for the reply's data.
///
/// Room of this process is only a number until [`OutBuf::append`] or a file operation needs memory.
pub struct OutBuf {
    room: Room,
    limit: usize,
    filled: usize,
}

enum Room {
    Unclaimed(Pool),
    Claimed(PooledBuf),
    Guest {
        chain: Arc<Chain>,
        /// Where the next byte goes.
        at: Cursor,
        /// How many writable bytes are before the data.
        header: usize,
    },
}

impl OutBuf {
    /// Room for `limit` bytes, claimed from `pool` when first used.
    pub fn new(pool: &Pool, limit: usize) -> Self {
        Self { room: Room::Unclaimed(pool.clone()), limit, filled: 0 }
    }

    /// The writable bytes of `chain` behind the first `header`, of which `max` at the most.
    pub(crate) fn of_guest(chain: Arc<Chain>, header: usize, max: usize) -> Self {
        let limit = chain.writable().len().saturating_sub(header).min(max);
        let mut at = Cursor::default();
        chain.writable().advance(&mut at, header);
        Self { room: Room::Guest { chain, at, header }, limit, filled: 0 }
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

    /// Whether the room is in memory of the client, a virtual machine, which takes it back with the answer.
    pub fn is_in_client(&self) -> bool {
        matches!(self.room, Room::Guest { .. })
    }

    /// Lowers the limit to `len` bytes in all; it is never raised.
    #[must_use]
    pub fn limited(mut self, len: usize) -> Self {
        self.limit = self.limit.min(len).max(self.filled);
        self
    }

    /// Hides the room behind the next `len` bytes, until [`OutBuf::widen`] gets the result.
    pub(crate) fn narrow(&mut self, len: usize) -> usize {
        assert!(len <= self.remaining(), "a part is not more than the whole");
        if let Room::Unclaimed(_) = self.room {
            // Memory for all of the room, not for the part.
            self.claim();
        }
        mem::replace(&mut self.limit, self.filled + len)
    }

    pub(crate) fn widen(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Adds `len` zeroes behind what was written.
    ///
    /// # Errors
    /// [`NoSpace`] when they do not fit; nothing is written then.
    pub fn append_zeroes(&mut self, len: usize) -> Result<(), NoSpace> {
        const ZEROES: [u8; 16 << 10] = [0; 16 << 10];
        if len > self.remaining() {
            return Err(NoSpace);
        }
        let mut left = len;
        while left > 0 {
            let now = left.min(ZEROES.len());
            self.append(&ZEROES[..now])?;
            left -= now;
        }
        Ok(())
    }

    /// Adds `bytes` behind what was written.
    ///
    /// # Errors
    /// [`NoSpace`] when they do not fit; nothing is written then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), NoSpace> {
        if bytes.len() > self.remaining() {
            return Err(NoSpace);
        }
        let end = self.filled + bytes.len();
        if let Room::Guest { chain, at, header } = &mut self.room {
            chain.touch(*header + end);
            chain.write(at, bytes);
        } else {
            let start = self.filled;
            self.claim().as_mut_slice()[start..end].copy_from_slice(bytes);
        }
        self.filled = end;
        Ok(())
    }

    /// Ends writing: what was appended is the reply's data.
    pub fn finish(self) -> Filled {
        Filled(self)
    }

    /// Where the rest of the room is, claimed if it was not, for the kernel to write to. The addresses
    /// hold as long as `self` lives, wherever it is moved.
    pub(crate) fn slices(&mut self) -> Slices {
        let (filled, left) = (self.filled, self.remaining());
        if let Room::Guest { chain, at, header } = &self.room {
            chain.touch(header + self.limit);
            return chain.writable().slices(*at, left);
        }
        // `filled <= limit`, and `claim` gives at least `limit` bytes.
        Slices::One(self.claim().iovec(filled, left))
    }

    /// Says that the kernel wrote `len` more bytes behind the filled ones.
    pub(crate) fn advance(&mut self, len: usize) {
        assert!(len <= self.remaining(), "the kernel never writes past the room it was given");
        self.filled += len;
        if let Room::Guest { chain, at, .. } = &mut self.room {
            chain.writable().advance(at, len);
        }
    }

    /// As much room in whole pages of this process, when this room is in a guest's memory.
    pub(crate) fn bounce(&self) -> Option<Self> {
        let Room::Guest { chain, .. } = &self.room else { return None };
        Some(Self::new(chain.pool(), self.remaining()))
    }

    fn claim(&mut self) -> &mut super::pages::Pages {
        if let Room::Unclaimed(pool) = &self.room {
            self.room = Room::Claimed(pool.take(self.limit));
        }
        match &mut self.room {
            Room::Claimed(memory) => memory.pages_mut(),
            Room::Unclaimed(_) | Room::Guest { .. } => unreachable!("claimed above"),
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

    /// The data, where it lies in memory of this process; nothing where it lies in a guest's.
    pub fn as_host_bytes(&self) -> &[u8] {
        match &self.0.room {
            Room::Claimed(memory) => &memory.pages().as_slice()[..self.0.filled],
            Room::Unclaimed(_) | Room::Guest { .. } => &[],
        }
    }

    /// Whether the data is where `chain` has room for it, behind `header` bytes.
    pub(crate) fn is_in(&self, chain: &Arc<Chain>, header: usize) -> bool {
        match &self.0.room {
            Room::Guest { chain: mine, header: before, .. } => {
                Arc::ptr_eq(mine, chain) && *before == header
            }
            _ => false,
        }
    }

    /// A copy of the data, wherever it is.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let Room::Guest { chain, header, .. } = &self.0.room else {
            return self.as_host_bytes().to_vec();
        };
        chain.written(*header, self.len())
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
