//! The front-end's memory, mapped into this process.
#![expect(unsafe_code, reason = "memory of the front-end is mapped here")]

use std::{any::Any, fs::File, os::fd::AsFd, ptr::NonNull, sync::Arc};

use rustix::{
    fs::{FileType, fstat, fstatfs},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

use super::{error::MemoryError, log::Log};
use crate::mem::{GuestMap, Region, Watched, page_size};

/// Regions of one front-end, as many as KVM gives a guest.
pub(super) const REGIONS_MAX: usize = 509;

/// The kernel's number of hugetlbfs.
const HUGETLBFS_MAGIC: u64 = 0x958458f6;

/// Where a region is, as the front-end says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The guest's address.
    pub(super) guest: u64,
    /// Bytes.
    pub(super) len: u64,
    /// The address in the front-end.
    pub(super) user: u64,
    /// Where the region begins in its file.
    pub(super) offset: u64,
}

impl Place {
    fn check(&self) -> Result<(), MemoryError> {
        let starts = [self.guest, self.user, self.offset];
        let wraps = starts.iter().any(|start| start.checked_add(self.len).is_none());
        if self.len == 0 || wraps {
            return Err(MemoryError::NoRegion { start: self.guest, len: self.len });
        }
        Ok(())
    }

    fn overlaps(&self, other: &Self) -> bool {
        // Neither end wraps: they were checked.
        self.guest < other.guest + other.len && other.guest < self.guest + self.len
    }
}

/// The memory of a front-end at one time. A clone holds the same mappings.
#[derive(Clone, Default)]
pub(super) struct Memory {
    regions: Vec<Mapped>,
}

#[derive(Clone)]
struct Mapped {
    place: Place,
    /// The file, by device and inode.
    file: (u64, u64),
    mapping: Arc<Mapping>,
}

/// Ranges of the guest's addresses: start, length.
pub(super) type Ranges = Vec<(u64, u64)>;

impl Memory {
    /// With one more region.
    pub(super) fn with(&self, place: Place, file: &File) -> Result<Self, MemoryError> {
        let mut new = self.clone();
        new.add(place, file, None)?;
        Ok(new)
    }

    /// Without the region at `place`; where it is in its file does not matter.
    pub(super) fn without(&self, place: Place) -> Result<(Self, Ranges), MemoryError> {
        let is_it = |mapped: &Mapped| Place { offset: place.offset, ..mapped.place } == place;
        let mut new = self.clone();
        let at = new.regions.iter().position(is_it);
        let at = at.ok_or(MemoryError::Unknown { start: place.guest, len: place.len })?;
        new.regions.swap_remove(at);
        Ok((new, vec![(place.guest, place.len)]))
    }

    /// Other regions; those that are the same as before keep their mapping. The ranges are those of
    /// the regions that are gone.
    pub(super) fn replaced(
        &self,
        regions: &[(Place, File)],
    ) -> Result<(Self, Ranges), MemoryError> {
        let mut new = Self::default();
        for (place, file) in regions {
            new.add(*place, file, Some(self))?;
        }
        let stays = |old: &&Mapped| {
            new.regions.iter().any(|region| Arc::ptr_eq(&region.mapping, &old.mapping))
        };
        let gone = self.regions.iter().filter(|old| !stays(old));
        let departing = gone.map(|old| (old.place.guest, old.place.len)).collect();
        Ok((new, departing))
    }

    fn add(&mut self, place: Place, file: &File, old: Option<&Self>) -> Result<(), MemoryError> {
        place.check()?;
        if self.regions.len() >= REGIONS_MAX {
            return Err(MemoryError::TooMany(REGIONS_MAX));
        }
        if let Some(other) = self.regions.iter().find(|other| other.place.overlaps(&place)) {
            return Err(MemoryError::Overlaps { start: place.guest, other: other.place.guest });
        }
        let id = checked_file(file, place.offset, place.len)?;
        let same = |mapped: &&Mapped| mapped.place == place && mapped.file == id;
        let mapped = match old.and_then(|old| old.regions.iter().find(same)) {
            Some(same) => same.clone(),
            None => {
                let mapping = Arc::new(Mapping::new(file, place.offset, place.len)?);
                Mapped { place, file: id, mapping }
            }
        };
        self.regions.push(mapped);
        Ok(())
    }

    /// The guest's address of what is at the front-end's address `user`.
    pub(super) fn guest_of(&self, user: u64) -> Option<u64> {
        self.regions.iter().find_map(|Mapped { place, .. }| {
            let offset = user.checked_sub(place.user).filter(|&offset| offset < place.len)?;
            Some(place.guest + offset)
        })
    }

    /// For queues; what changes is noted in `log`.
    pub(super) fn map(&self, log: &Arc<Log>) -> GuestMap {
        let regions = self.regions.iter().map(|Mapped { place, mapping, .. }| {
            let owner: Arc<dyn Any + Send + Sync> = mapping.clone();
            // SAFETY: the mapping has `len` bytes from there on, as long as it lives.
            let region = unsafe { Region::new(place.guest, place.len, mapping.start(), owner) };
            match &mapping.watched {
                Some(watched) => region.watched(watched.clone()),
                None => region,
            }
        });
        GuestMap::new(regions.collect(), Some(log.clone()))
    }
}

/// Finds out whether `file` has the `len` bytes from `offset` on. Returns its device and inode.
fn checked_file(file: &File, offset: u64, len: u64) -> Result<(u64, u64), MemoryError> {
    let stat = fstat(file).map_err(|error| unmappable(len, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(MemoryError::NoFile);
    }
    let has = u64::try_from(stat.st_size).unwrap_or(0);
    let needs = offset.checked_add(len).ok_or(MemoryError::NoRegion { start: offset, len })?;
    if has < needs {
        return Err(MemoryError::TooShort { has, needs });
    }
    Ok((stat.st_dev, stat.st_ino))
}

/// A part of a file, shared with whoever else maps it.
pub(super) struct Mapping {
    base: NonNull<u8>,
    /// Bytes that are mapped, from `base` on.
    mapped: usize,
    /// Bytes before the part.
    before: usize,
    len: usize,
    /// `None` only at the end.
    watched: Option<Arc<Watched>>,
}

// SAFETY: a mapping is not tied to a thread, and its bytes are reached by raw pointers only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the `len` bytes of `file` from `offset` on.
    pub(super) fn new(file: &File, offset: u64, len: u64) -> Result<Self, MemoryError> {
        checked_file(file, offset, len)?;
        let unit = unit(file).map_err(|error| unmappable(len, error))?;
        // A mapping begins and ends at a (huge) page.
        let before = offset % unit;
        let too_long = || unmappable(len, rustix::io::Errno::NOMEM);
        let mapped = (before + len).checked_next_multiple_of(unit).ok_or_else(too_long)?;
        let mapped = usize::try_from(mapped).map_err(|_| too_long())?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses an address where nothing is.
        let base = unsafe {
            mmap(std::ptr::null_mut(), mapped, protection, flags, file.as_fd(), offset - before)
        };
        let base = base.map_err(|error| unmappable(len, error))?;
        let base = NonNull::new(base.cast()).ok_or_else(too_long)?;
        // SAFETY: it is mapped until the result is gone, see `drop`, and reached by raw pointers only.
        let watched = unsafe { Watched::new(base, mapped, unit as usize) }.map(Arc::new);
        // Both are smaller than `mapped`, which fits.
        let mapping = Self { base, mapped, before: before as usize, len: len as usize, watched };
        // A front-end that truncated it would end the process.
        if mapping.watched.is_none() {
            return Err(MemoryError::Unwatched);
        }
        Ok(mapping)
    }

    /// The first byte.
    pub(super) fn start(&self) -> NonNull<u8> {
        // SAFETY: `before` bytes precede the part in the same mapping.
        unsafe { self.base.add(self.before) }
    }

    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.watched = None;
        // SAFETY: this was mapped in `new`, and whoever uses it holds `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.mapped) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// What offsets and lengths of mappings of `file` are multiples of.
fn unit(file: &File) -> rustix::io::Result<u64> {
    let stat = fstatfs(file)?;
    // A magic number of 32 bits, whatever the width of the field.
    let is_huge = stat.f_type as u64 & u64::from(u32::MAX) == HUGETLBFS_MAGIC;
    Ok(unit_of(page_size() as u64, u64::try_from(stat.f_bsize).ok().filter(|_| is_huge)))
}

/// The same, for pages of `page` bytes and a file that has huge ones of `huge` bytes.
fn unit_of(page: u64, huge: Option<u64>) -> u64 {
    huge.filter(|huge| *huge > 0 && huge.is_multiple_of(page)).unwrap_or(page)
}

fn unmappable(len: u64, error: rustix::io::Errno) -> MemoryError {
    MemoryError::Unmappable { len, cause: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_whole_pages_of_the_system_or_of_the_file() {
        assert_eq!(unit_of(4096, None), 4096);
        assert_eq!(unit_of(64 << 10, None), 64 << 10);
        assert_eq!(unit_of(4096, Some(2 << 20)), 2 << 20);
        assert_eq!(unit_of(64 << 10, Some(512 << 20)), 512 << 20);
        assert_eq!(unit_of(64 << 10, Some(4096)), 64 << 10);
        assert_eq!(unit_of(4096, Some(0)), 4096);
    }
}
