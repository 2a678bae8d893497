//! The memory of one message in a virtqueue: what the guest lets be read, and where it expects bytes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    Pool,
    guest::{GuestMap, Outside, Piece},
};

/// A chain of descriptors, its addresses found once.
///
/// The guest may change the bytes at any time, so they are only copied, or handed to the kernel, and no
/// reference to them is ever made.
pub(crate) struct Chain {
    map: Arc<GuestMap>,
    /// What a file operation takes that cannot use the guest's memory.
    pool: Pool,
    readable: Pieces,
    writable: Pieces,
    /// How many of the writable bytes, from the first on, may have been written.
    touched: AtomicUsize,
}

// SAFETY: the addresses are those of a mapping that `map` holds, and not tied to a thread.
unsafe impl Send for Chain {}
// SAFETY: as above; bytes behind them are copied with no reference to them.
unsafe impl Sync for Chain {}

/// Bytes of a guest in the order of their descriptors.
#[derive(Default)]
pub(crate) struct Pieces {
    pieces: Vec<Piece>,
    len: usize,
}

/// The most ranges that one system call takes.
const IOV_MAX: usize = 1024;

/// A place in [`Pieces`].
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Cursor {
    piece: usize,
    offset: usize,
}

impl Chain {
    /// A chain without memory, to be filled.
    pub(crate) fn new(map: Arc<GuestMap>, pool: Pool) -> Self {
        let touched = AtomicUsize::new(0);
        Self { map, pool, readable: Pieces::default(), writable: Pieces::default(), touched }
    }

    /// Makes it a chain without memory again.
    pub(crate) fn clear(&mut self) {
        for pieces in [&mut self.readable, &mut self.writable] {
            pieces.pieces.clear();
            pieces.len = 0;
        }
        *self.touched.get_mut() = 0;
    }

    /// Adds `len` bytes that the device may read.
    pub(crate) fn push_readable(&mut self, guest: u64, len: u32) -> Result<(), Outside> {
        self.readable.push(&self.map, guest, len)
    }

    /// Adds `len` bytes that the device may write.
    pub(crate) fn push_writable(&mut self, guest: u64, len: u32) -> Result<(), Outside> {
        self.writable.push(&self.map, guest, len)
    }

    pub(crate) fn map(&self) -> &Arc<GuestMap> {
        &self.map
    }

    pub(crate) fn readable(&self) -> &Pieces {
        &self.readable
    }

    pub(crate) fn writable(&self) -> &Pieces {
        &self.writable
    }

    /// How many ranges of memory it has.
    pub(crate) fn pieces(&self) -> usize {
        self.readable.count() + self.writable.count()
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Says that the first `len` writable bytes may be written from now on.
    pub(crate) fn touch(&self, len: usize) {
        self.touched.fetch_max(len, Ordering::Relaxed);
    }

    /// Notes every page that may have been written.
    pub(crate) fn mark_dirty(&self) {
        let mut left = self.touched.load(Ordering::Relaxed);
        for piece in &self.writable.pieces {
            let here = left.min(piece.len);
            self.map.mark_dirty(piece.guest, here);
            left -= here;
        }
    }

    /// Whether some byte of it lies in the guest's addresses `start..start + len`.
    pub(crate) fn meets(&self, start: u64, len: u64) -> bool {
        let pieces = self.readable.pieces.iter().chain(&self.writable.pieces);
        let end = start.saturating_add(len);
        pieces.into_iter().any(|piece| piece.guest < end && start < piece.guest + piece.len as u64)
    }

    /// Copies `bytes` to the writable place `at`, and moves that behind them.
    ///
    /// # Panics
    /// When they do not fit.
    pub(crate) fn write(&self, at: &mut Cursor, bytes: &[u8]) {
        let mut done = 0;
        self.writable.for_each(at, bytes.len(), |piece| {
            // SAFETY: the piece is mapped memory that `map` holds, and `bytes` is ours, so they do not
            // overlap. Whatever the guest does meanwhile changes only bytes.
            unsafe {
                piece.host.as_ptr().copy_from_nonoverlapping(bytes[done..].as_ptr(), piece.len)
            };
            done += piece.len;
        });
    }

    /// Copies `parts` one after the other to the writable bytes, from the first on.
    ///
    /// # Panics
    /// When they do not fit.
    pub(crate) fn put(&self, parts: &[&[u8]]) {
        let mut at = Cursor::default();
        self.touch(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| self.write(&mut at, part));
    }

    /// A copy of `len` writable bytes behind the first `start`, as they are now.
    pub(crate) fn written(&self, start: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut at = Cursor::default();
        self.writable.advance(&mut at, start);
        copy_out(&self.writable, &mut at, &mut bytes);
        bytes
    }

    /// Copies `into.len()` bytes from the readable place `at`, and moves that behind them.
    ///
    /// # Panics
    /// When there are fewer.
    pub(crate) fn read(&self, at: &mut Cursor, into: &mut [u8]) {
        copy_out(&self.readable, at, into);
    }
}

fn copy_out(pieces: &Pieces, at: &mut Cursor, into: &mut [u8]) {
    let mut done = 0;
    pieces.for_each(at, into.len(), |piece| {
        // SAFETY: the piece is mapped memory that its chain holds, and `into` is ours, so they do not
        // overlap. Whatever the guest does meanwhile changes only bytes.
        unsafe { piece.host.as_ptr().copy_to_nonoverlapping(into[done..].as_mut_ptr(), piece.len) };
        done += piece.len;
    });
}

impl Pieces {
    /// Bytes in all.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Moves `at` by `len` bytes, or to the end.
    pub(crate) fn advance(&self, at: &mut Cursor, mut len: usize) {
        while let Some(piece) = self.pieces.get(at.piece) {
            let here = len.min(piece.len - at.offset);
            at.offset += here;
            len -= here;
            if at.offset < piece.len {
                return;
            }
            *at = Cursor { piece: at.piece + 1, offset: 0 };
        }
    }

    /// How many ranges of memory there are.
    pub(crate) fn count(&self) -> usize {
        self.pieces.len()
    }

    /// The first of the `len` bytes at `at`, as many as one system call takes, for the kernel.
    pub(crate) fn slices(&self, mut at: Cursor, len: usize) -> Slices {
        let first = self.pieces.get(at.piece).map_or(0, |piece| piece.len - at.offset);
        if first >= len {
            let mut one = iovec(std::ptr::null_mut(), 0);
            self.for_each(&mut at, len, |piece| one = iovec(piece.host.as_ptr(), piece.len));
            return Slices::One(one);
        }
        let mut many = Vec::with_capacity((self.pieces.len() - at.piece).min(IOV_MAX));
        self.for_each(&mut at, len, |piece| {
            if many.len() < IOV_MAX {
                many.push(iovec(piece.host.as_ptr(), piece.len));
            }
        });
        Slices::Many(many)
    }

    /// Visits the `len` bytes at `at`, and moves that behind them.
    fn for_each(&self, at: &mut Cursor, len: usize, mut visit: impl FnMut(Piece)) {
        let mut left = len;
        while left > 0 {
            let piece = self.pieces[at.piece];
            let here = left.min(piece.len - at.offset);
            // SAFETY: `offset` is inside the piece.
            let host = unsafe { piece.host.add(at.offset) };
            visit(Piece { host, len: here, guest: piece.guest + at.offset as u64 });
            left -= here;
            at.offset += here;
            if at.offset == piece.len {
                *at = Cursor { piece: at.piece + 1, offset: 0 };
            }
        }
    }

    fn push(&mut self, map: &GuestMap, guest: u64, len: u32) -> Result<(), Outside> {
        map.resolve(guest, u64::from(len), |piece| {
            self.len += piece.len;
            if let Some(last) = self.pieces.last_mut()
                && last.guest + last.len as u64 == piece.guest
                && last.host.as_ptr().wrapping_add(last.len) == piece.host.as_ptr()
            {
                last.len += piece.len;
            } else {
                self.pieces.push(piece);
            }
        })
    }
}

/// Addresses and lengths for the kernel, valid as long as the buffer that they are of.
pub(crate) enum Slices {
    One(libc::iovec),
    Many(Vec<libc::iovec>),
}

impl Slices {
    /// What the kernel takes. The address holds for `Many` wherever `self` is moved.
    pub(crate) fn as_slice(&self) -> &[libc::iovec] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    /// How many there are, as system calls count them.
    pub(crate) fn count(&self) -> i32 {
        i32::try_from(self.as_slice().len()).unwrap_or(i32::MAX)
    }

    /// How many there are, as io_uring counts them.
    pub(crate) fn count32(&self) -> u32 {
        u32::try_from(self.as_slice().len()).unwrap_or(u32::MAX)
    }

    /// Whether every address, and every length but the last, is a multiple of `align`.
    pub(crate) fn are_aligned(&self, align: usize) -> bool {
        let slices = self.as_slice();
        let last = slices.len().saturating_sub(1);
        slices.iter().enumerate().all(|(index, slice)| {
            (slice.iov_base as usize).is_multiple_of(align)
                && (index == last || slice.iov_len.is_multiple_of(align))
        })
    }
}

pub(super) fn iovec(start: *mut u8, len: usize) -> libc::iovec {
    libc::iovec { iov_base: start.cast(), iov_len: len }
}
