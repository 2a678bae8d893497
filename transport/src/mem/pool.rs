//! A pool of page-aligned buffers, in a few sizes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pages::{PAGE, Pages, page_size};

/// How many sizes are kept for reuse.
const CLASSES: usize = 4;

/// The sizes in bytes, in whole pages of `page` bytes. The last one holds a message with 1 MiB of data and
/// the page its header is in.
const fn sizes(page: usize) -> [usize; CLASSES] {
    [
        PAGE.next_multiple_of(page),
        (32_usize << 10).next_multiple_of(page),
        (256_usize << 10).next_multiple_of(page),
        ((1 << 20) + PAGE).next_multiple_of(page),
    ]
}

/// The most buffers kept idle in each class: 64 of the small ones, and 4 MiB of the large ones.
const KEEP: [usize; CLASSES] = [64, 32, 16, 4];

/// A pool of page-aligned buffers, shared by clones.
#[derive(Clone, Default)]
pub struct Pool(Arc<[Mutex<Class>; CLASSES]>);

#[derive(Default)]
struct Class {
    free: Vec<Pages>,
    /// The fewest free buffers since the last trim: these were not needed.
    idle: usize,
}

impl Pool {
    /// An empty pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer of at least `len` bytes. Sizes above the largest class are mapped for this use.
    pub(crate) fn take(&self, len: usize) -> PooledBuf {
        let sizes = sizes(page_size());
        let class = sizes.iter().position(|&size| len <= size);
        let reused = class.and_then(|class| {
            let mut class = self.class(class);
            let pages = class.free.pop();
            class.idle = class.idle.min(class.free.len());
            pages
        });
        let pages = reused.unwrap_or_else(|| Pages::new(class.map_or(len, |class| sizes[class])));
        PooledBuf { pages: Some(pages), pool: self.clone() }
    }

    /// Gives back to the kernel what was not needed since the last call.
    ///
    /// Returns whether buffers are left that a later call may free.
    pub fn trim(&self) -> bool {
        let mut left = false;
        for class in 0..CLASSES {
            let mut class = self.class(class);
            let keep = class.free.len() - class.idle.min(class.free.len());
            class.free.truncate(keep);
            class.idle = class.free.len();
            left |= !class.free.is_empty();
        }
        left
    }

    /// Bytes held for reuse.
    pub fn idle_bytes(&self) -> usize {
        let sizes = sizes(page_size());
        (0..CLASSES).map(|class| self.class(class).free.len() * sizes[class]).sum()
    }

    fn give_back(&self, pages: Pages) {
        if let Some(index) = sizes(page_size()).iter().position(|&size| size == pages.len()) {
            let mut class = self.class(index);
            if class.free.len() < KEEP[index] {
                class.free.push(pages);
            }
        }
    }

    fn class(&self, index: usize) -> MutexGuard<'_, Class> {
        self.0[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pages that return to their pool when dropped.
pub(crate) struct PooledBuf {
    /// `None` only while being dropped.
    pages: Option<Pages>,
    pool: Pool,
}

impl PooledBuf {
    pub(crate) fn pages(&self) -> &Pages {
        self.pages.as_ref().expect("present until dropped")
    }

    pub(crate) fn pages_mut(&mut self) -> &mut Pages {
        self.pages.as_mut().expect("present until dropped")
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        if let Some(pages) = self.pages.take() {
            self.pool.give_back(pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_reused_when_it_was_given_back() {
        let pool = Pool::new();
        let first = pool.take(100).pages().as_slice().as_ptr();
        assert_eq!(pool.idle_bytes(), page_size());
        assert_eq!(pool.take(PAGE).pages().as_slice().as_ptr(), first);
    }

    #[test]
    fn an_idle_pool_shrinks_to_nothing_in_two_trims() {
        let pool = Pool::new();
        drop((pool.take(1), pool.take(1 << 20)));
        pool.trim();
        assert!(!pool.trim());
        assert_eq!(pool.idle_bytes(), 0);
    }

    #[test]
    fn a_buffer_larger_than_every_class_is_not_kept() {
        let pool = Pool::new();
        drop(pool.take(8 << 20));
        assert_eq!(pool.idle_bytes(), 0);
    }

    #[test]
    fn sizes_are_whole_pages_of_the_system() {
        assert_eq!(sizes(4096), [4096, 32 << 10, 256 << 10, (1 << 20) + 4096]);
        assert_eq!(sizes(64 << 10), [64 << 10, 64 << 10, 256 << 10, (1 << 20) + (64 << 10)]);
    }

    #[test]
    fn buffers_are_page_aligned() {
        let pool = Pool::new();
        for len in [1, PAGE, 40_000, 2 << 20] {
            assert_eq!(pool.take(len).pages().as_slice().as_ptr().align_offset(PAGE), 0);
        }
    }
}
