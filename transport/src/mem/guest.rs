//! The memory of a virtual machine.

use std::{any::Any, ptr::NonNull, sync::Arc};

use super::Watched;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress,
    bitmap::Bitmap,
};

/// Where the pages are noted that a guest's owner must copy again (dirty pages).
pub trait DirtyLog: Send + Sync {
    /// Notes that the `len` bytes from the guest's address `start` on may have changed.
    fn mark(&self, start: u64, len: u64);
}

/// One region of a guest's memory, mapped into this process.
#[derive(Clone)]
pub struct Region {
    guest: u64,
    len: u64,
    host: NonNull<u8>,
    // It goes before the mapping does.
    watched: Option<Arc<Watched>>,
    owner: Arc<dyn Any + Send + Sync>,
}

impl Region {
    /// The `len` bytes of the guest from its address `guest` on, which are mapped at `host`.
    ///
    /// # Safety
    /// `host` maps `len` bytes that may be read and written, as long as `owner` lives.
    pub unsafe fn new(
        guest: u64,
        len: u64,
        host: NonNull<u8>,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self { guest, len, host, owner, watched: None }
    }

    /// The same region, whose memory may be truncated by the guest's owner.
    #[must_use]
    pub fn watched(mut self, watched: Arc<Watched>) -> Self {
        self.watched = Some(watched);
        self
    }

    /// The guest's address of the first byte.
    pub fn guest(&self) -> u64 {
        self.guest
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the region has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What keeps the memory mapped.
    pub fn owner(&self) -> &Arc<dyn Any + Send + Sync> {
        &self.owner
    }

    /// How far behind the first byte `guest` is, when it is in this region.
    fn offset_of(&self, guest: u64) -> Option<u64> {
        guest.checked_sub(self.guest).filter(|&offset| offset < self.len)
    }
}

// SAFETY: the mapping is not tied to a thread, and its bytes are only reached by raw pointers.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// The regions of a guest's memory at one time. A clone holds the same memory.
#[derive(Clone, Default)]
pub struct GuestMap {
    regions: Vec<Region>,
    dirty: Option<Arc<dyn DirtyLog>>,
}

/// Guest memory that is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outside;

impl GuestMap {
    /// `regions`, which do not overlap; changes are noted in `dirty`.
    pub fn new(regions: Vec<Region>, dirty: Option<Arc<dyn DirtyLog>>) -> Self {
        Self { regions, dirty }
    }

    /// The memory of a virtual machine monitor that keeps it with `vm-memory`. Changes are noted in its
    /// own bitmap.
    ///
    /// # Errors
    /// [`Outside`] when a region is not mapped into this process.
    pub fn of<M>(memory: Arc<M>) -> Result<Self, Outside>
    where
        M: GuestMemoryBackend + Send + Sync + 'static,
    {
        let regions = memory.iter().map(|region| {
            let host = region.get_host_address(MemoryRegionAddress(0)).map_err(|_| Outside)?;
            let host = NonNull::new(host).ok_or(Outside)?;
            let owner: Arc<dyn Any + Send + Sync> = memory.clone();
            // SAFETY: a region of `vm-memory` is mapped for its whole length as long as it lives, and
            // `memory` owns it.
            Ok(unsafe { Region::new(region.start_addr().raw_value(), region.len(), host, owner) })
        });
        let regions = regions.collect::<Result<_, _>>()?;
        Ok(Self { regions, dirty: Some(Arc::new(Bitmaps(memory))) })
    }

    /// The regions.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The ranges (start, length) of the regions that `new` does not have, or has elsewhere in this process.
    pub fn departing(&self, new: &Self) -> Vec<(u64, u64)> {
        let place = |region: &Region| (region.guest, region.len, region.host);
        let stays = |old: &&Region| new.regions.iter().any(|region| place(region) == place(old));
        let gone = self.regions.iter().filter(|old| !stays(old));
        gone.map(|old| (old.guest, old.len)).collect()
    }

    /// Whether some of it was truncated, and replaced by empty pages.
    pub(crate) fn is_lost(&self) -> bool {
        let mut watched = self.regions.iter().filter_map(|region| region.watched.as_ref());
        watched.any(|watched| watched.is_lost())
    }

    /// Finds the `len` bytes from the guest's address `guest` on, split where regions meet.
    pub(crate) fn resolve(
        &self,
        mut guest: u64,
        len: u64,
        mut found: impl FnMut(Piece),
    ) -> Result<(), Outside> {
        let mut left = len;
        while left > 0 {
            let hit =
                self.regions.iter().find_map(|region| Some((region, region.offset_of(guest)?)));
            let (region, offset) = hit.ok_or(Outside)?;
            let len = left.min(region.len - offset);
            // Lengths of mappings fit an address of this process.
            let (offset, here) = (offset as usize, len as usize);
            // SAFETY: `offset` is inside the mapping.
            let host = unsafe { region.host.add(offset) };
            found(Piece { host, len: here, guest });
            left -= len;
            guest += len;
        }
        Ok(())
    }

    /// The `len` bytes from `guest` on, when they are in one region.
    pub(crate) fn whole(&self, guest: u64, len: usize) -> Result<NonNull<u8>, Outside> {
        let mut whole = Err(Outside);
        self.resolve(guest, len as u64, |piece| {
            if piece.len == len {
                whole = Ok(piece.host);
            }
        })?;
        whole
    }

    /// Copies `into.len()` bytes from the guest's address `guest` on.
    pub(crate) fn read(&self, guest: u64, into: &mut [u8]) -> Result<(), Outside> {
        let mut done = 0;
        self.resolve(guest, into.len() as u64, |piece| {
            let host = piece.host.as_ptr();
            // SAFETY: the piece is mapped memory, and `into` is ours, so they do not overlap. Whatever
            // the guest does meanwhile changes only bytes.
            unsafe { host.copy_to_nonoverlapping(into[done..].as_mut_ptr(), piece.len) };
            done += piece.len;
        })
    }

    /// Notes that bytes may have changed.
    pub(crate) fn mark_dirty(&self, guest: u64, len: usize) {
        if let Some(dirty) = &self.dirty
            && len > 0
        {
            dirty.mark(guest, len as u64);
        }
    }
}

/// Contiguous bytes of a guest.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) host: NonNull<u8>,
    pub(crate) len: usize,
    pub(crate) guest: u64,
}

/// The bitmaps of a `vm-memory`.
struct Bitmaps<M>(Arc<M>);

impl<M: GuestMemoryBackend + Send + Sync> DirtyLog for Bitmaps<M> {
    fn mark(&self, mut start: u64, mut len: u64) {
        while len > 0 {
            let Some((region, at)) = self.0.to_region_addr(GuestAddress(start)) else { return };
            let here = len.min(region.len() - at.raw_value());
            // Lengths of mappings fit an address of this process.
            region.bitmap().mark_dirty(at.raw_value() as usize, here as usize);
            len -= here;
            start += here;
        }
    }
}
