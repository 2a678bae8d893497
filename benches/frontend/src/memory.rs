//! The guest's memory: one or several memfds, mapped here and shared with the back-end.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use crate::error::{Error, Result};
use crate::vhost_user::MemoryRegion;

/// What a front-end calls its own addresses. Nothing is mapped there: only the back-end's arithmetic sees them.
const USER_BASE: u64 = 0x7f00_0000_0000;

/// One region: a memfd of its own.
#[derive(Debug)]
pub struct Region {
    guest: u64,
    map: MmapRegion,
    file: Arc<File>,
    offset: u64,
}

/// Bytes at a guest address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The guest address of the first.
    pub addr: u64,
    /// How many.
    pub len: u32,
}

impl Region {
    /// New memory of zeros at a guest address.
    pub fn new(guest: u64, size: usize) -> Result<Arc<Self>> {
        let file = memfd_create(c"guest", MemfdFlags::CLOEXEC)
            .map_err(Error::io("cannot make guest memory"))?;
        let file = File::from(file);
        file.set_len(size as u64).map_err(Error::std("cannot size guest memory"))?;
        Self::of_file(Arc::new(file), 0, guest, size)
    }

    /// A part of a file as guest memory. Several regions may share one file.
    pub fn of_file(file: Arc<File>, offset: u64, guest: u64, size: usize) -> Result<Arc<Self>> {
        let map = MmapRegion::from_file(FileOffset::from_arc(Arc::clone(&file), offset), size)
            .map_err(|error| Error::Io {
                what: "cannot map guest memory",
                source: std::io::Error::other(error),
            })?;
        Ok(Arc::new(Region { guest, map, file, offset }))
    }

    /// The guest address of the first byte.
    pub fn guest(&self) -> u64 {
        self.guest
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.map.size() as u64
    }

    /// The memfd, for a test to truncate. Touch nothing behind its end afterwards: this process dies of it.
    pub fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// As the back-end is told of it.
    pub fn describe(&self) -> MemoryRegion {
        MemoryRegion {
            guest_address: self.guest,
            size: self.size(),
            user_address: USER_BASE + self.guest,
            mmap_offset: self.offset,
        }
    }

    /// The front-end's address for a guest address, as rings are described.
    pub fn user_address(guest: u64) -> u64 {
        USER_BASE + guest
    }

    /// Copies into guest memory.
    ///
    /// # Panics
    ///
    /// If the bytes do not lie in this region.
    pub fn write(&self, addr: u64, bytes: &[u8]) {
        self.slice(addr, bytes.len()).copy_from(bytes);
    }

    /// Copies out of guest memory.
    ///
    /// # Panics
    ///
    /// If the bytes do not lie in this region.
    pub fn read(&self, addr: u64, bytes: &mut [u8]) {
        self.slice(addr, bytes.len()).copy_to(bytes);
    }

    /// Copies out of guest memory, as a new vector.
    pub fn read_vec(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(addr, &mut bytes);
        bytes
    }

    /// Sets guest memory to one byte.
    pub fn fill(&self, addr: u64, len: usize, byte: u8) {
        /// So that a large fill needs no large buffer.
        const PIECE: usize = 4096;
        let piece = [byte; PIECE];
        for start in (0..len).step_by(PIECE) {
            let count = PIECE.min(len - start);
            self.write(addr + start as u64, &piece[..count]);
        }
    }

    /// Reads a ring's index.
    pub fn load(&self, addr: u64, order: Ordering) -> u16 {
        self.index(addr).load(order)
    }

    /// Writes a ring's index.
    pub fn store(&self, addr: u64, value: u16, order: Ordering) {
        self.index(addr).store(value, order);
    }

    fn index(&self, addr: u64) -> &AtomicU16 {
        let offset = (addr - self.guest) as usize;
        self.map.get_atomic_ref(offset).expect("a ring lies in its region")
    }

    fn slice(&self, addr: u64, len: usize) -> VolatileSlice<'_> {
        let offset = addr.checked_sub(self.guest).expect("the address is in the region");
        self.map.get_slice(offset as usize, len).expect("the bytes are in the region")
    }

    /// Copies a value whose size is known, quicker than [`read`](Self::read).
    pub(crate) fn read_array<const N: usize>(&self, addr: u64) -> [u8; N] {
        let slice = self.slice(addr, N);
        let mut bytes = [0; N];
        // The slice has exactly N bytes.
        let _ = slice.read_slice(&mut bytes, 0);
        bytes
    }
}

/// Hands out parts of a region, never the same twice.
#[derive(Debug)]
pub struct Arena {
    region: Arc<Region>,
    next: u64,
}

impl Arena {
    /// The whole of a region.
    pub fn new(region: Arc<Region>) -> Self {
        Arena { next: region.guest(), region }
    }

    /// The region of it.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// The next `size` bytes, aligned.
    pub fn take(&mut self, size: u64, align: u64) -> Result<u64> {
        let start = self.next.next_multiple_of(align);
        let end = start + size;
        if end > self.region.guest() + self.region.size() {
            return Err(Error::NoRoom("guest memory is used up"));
        }
        self.next = end;
        Ok(start)
    }
}
