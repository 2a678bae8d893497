//! Anonymous pages from the kernel.

use std::{ptr::NonNull, sync::OnceLock};

use super::chain::iovec;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// What buffers are aligned to, in bytes: enough for O_DIRECT on every device with logical blocks of up to
/// 4 KiB. It divides the page size of every system.
pub const PAGE: usize = 4096;

/// The page size of this system, in bytes: 64 KiB on some.
pub fn page_size() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(rustix::param::page_size)
}

/// A private mapping of whole pages, zero until written.
///
/// The kernel takes a page only when it is touched, so that a large buffer which carried little
/// costs little.
pub(crate) struct Pages {
    start: NonNull<u8>,
    len: usize,
}

impl Pages {
    /// Maps at least `len` bytes.
    ///
    /// # Panics
    /// When the kernel has no memory left for this process, as the global allocator would.
    pub(crate) fn new(len: usize) -> Self {
        let len = len.max(1).next_multiple_of(page_size());
        // SAFETY: a fresh private mapping at an address of the kernel's choice aliases nothing.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let Ok(start) = start else {
            std::alloc::handle_alloc_error(
                std::alloc::Layout::from_size_align(len, PAGE).expect("whole pages"),
            )
        };
        let start = NonNull::new(start.cast()).expect("the kernel maps nothing at zero");
        Self { start, len }
    }

    /// The length in bytes, a multiple of [`page_size`].
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The `len` bytes behind the first `start`, for the kernel.
    pub(crate) fn iovec(&self, start: usize, len: usize) -> libc::iovec {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: `start` is inside the mapping, or at its end.
        let start = unsafe { self.start.add(start) };
        iovec(start.as_ptr(), len)
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` maps `len` initialised bytes, and nobody else has their address while
        // `self` is borrowed: file operations take the buffer by value.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to be changed.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` excludes other borrows.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `start` and `len` are those of the mapping that `new` made; nobody uses it now.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

// SAFETY: the mapping is owned and not tied to the thread that made it.
unsafe impl Send for Pages {}
// SAFETY: `&Pages` gives out only `&[u8]`.
unsafe impl Sync for Pages {}
