//! Memory of a guest that its owner truncates while we look at it.
//!
//! Such memory is a mapped file, and a load from a page that the file no longer has raises SIGBUS. The
//! handler here puts an empty page in its place, in watched ranges only, and remembers that.

use std::{
    io,
    mem::{MaybeUninit, zeroed},
    ptr::{self, NonNull},
    sync::{
        Once,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// The most ranges watched at once: as many as a front-end has memory slots.
const WATCHED_MAX: usize = 1024;

/// The ranges. A signal handler may take no lock, so they are a table of atomics.
static RANGES: [Range; WATCHED_MAX] = [const { Range::new() }; WATCHED_MAX];

struct Range {
    is_taken: AtomicBool,
    start: AtomicUsize,
    /// 0 while the entry is not complete.
    len: AtomicUsize,
    page: AtomicUsize,
    lost: AtomicBool,
}

/// A range of mapped memory that may be truncated; no longer watched when dropped.
pub struct Watched(&'static Range);

impl Watched {
    /// Watches the `len` bytes mapped at `start`, in pages of `page` bytes. `None` when too many ranges
    /// are watched already.
    ///
    /// # Safety
    /// The mapping stays until the result is dropped, and nobody makes references to its bytes: its
    /// pages may be replaced by empty ones.
    pub unsafe fn new(start: NonNull<u8>, len: usize, page: usize) -> Option<Self> {
        let range = RANGES.iter().find(|range| !range.is_taken.swap(true, Ordering::AcqRel))?;
        range.lost.store(false, Ordering::Relaxed);
        range.page.store(page, Ordering::Relaxed);
        range.start.store(start.as_ptr() as usize, Ordering::Relaxed);
        range.len.store(len, Ordering::Release);
        Some(Self(range))
    }

    /// Whether some of it was gone when it was looked at.
    pub fn is_lost(&self) -> bool {
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.len.store(0, Ordering::Release);
        self.0.is_taken.store(false, Ordering::Release);
    }
}

impl Range {
    const fn new() -> Self {
        Self {
            is_taken: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        }
    }

    /// Puts an empty page where `addr` is, when that is in this range. Called by the signal handler.
    fn replace(&self, addr: usize) -> bool {
        let len = self.len.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        if addr.wrapping_sub(start) >= len {
            return false;
        }
        let page = self.page.load(Ordering::Relaxed);
        self.lost.store(true, Ordering::Relaxed);
        // SAFETY: the page is part of a mapping that stays as long as it is watched, whose users accept
        // that its pages are replaced. mmap is a system call and nothing more.
        let mapped = unsafe {
            libc::mmap(
                (addr & !(page - 1)) as *mut libc::c_void,
                page,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        mapped != libc::MAP_FAILED
    }
}

/// Handles SIGBUS in watched ranges from now on. Everywhere else it ends the process as before.
///
/// This is a setting of the whole process: the library makes it only when it is asked to.
///
/// # Errors
/// What the kernel answered.
pub fn survive_truncation() -> io::Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| result = install());
    result
}

fn install() -> io::Result<()> {
    // SAFETY: all zeroes is a valid `sigaction`: no flags, no signals, the default.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let mut before = MaybeUninit::uninit();
    // SAFETY: `action` names a handler that takes three arguments, as SA_SIGINFO says, and does only what
    // a signal handler may. `before` has room for what was there.
    match unsafe { libc::sigaction(libc::SIGBUS, &action, before.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid `siginfo_t`, and for SIGBUS an address.
    let (code, addr) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // SI_KERNEL and above: a fault. Others come from kill(2) and have no address.
    let is_fault = code > 0;
    if is_fault && RANGES.iter().any(|range| range.replace(addr)) {
        return;
    }
    // SAFETY: the default action, which ends the process: a fault happens again, and a signal that was
    // sent is sent again.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &action, ptr::null_mut());
        if !is_fault {
            libc::raise(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::{
        fs::{MemfdFlags, ftruncate, memfd_create},
        mm::{MapFlags, ProtFlags, mmap, munmap},
    };

    use super::*;
    use crate::mem::page_size;

    #[test]
    fn a_load_from_a_page_that_is_gone_reads_zeroes_and_is_remembered() {
        survive_truncation().unwrap();
        let page = page_size();
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&file, 4 * page as u64).unwrap();
        let (flags, len) = (ProtFlags::READ | ProtFlags::WRITE, 4 * page);
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start =
            unsafe { mmap(ptr::null_mut(), len, flags, MapFlags::SHARED, &file, 0) }.unwrap();
        let start = NonNull::new(start.cast::<u8>()).unwrap();
        // SAFETY: it is unmapped below, after the watch.
        let watched = unsafe { Watched::new(start, len, page) }.unwrap();
        // SAFETY: inside the mapping.
        let (first, third) = unsafe { (start, start.add(2 * page + 5)) };
        // SAFETY: mapped, and nobody else uses them.
        unsafe {
            first.write_volatile(1);
            third.write_volatile(3);
        }
        assert!(!watched.is_lost());
        ftruncate(&file, page as u64).unwrap();
        // SAFETY: as above; the page that is gone is replaced.
        assert_eq!(unsafe { (first.read_volatile(), third.read_volatile()) }, (1, 0));
        assert!(watched.is_lost());
        drop(watched);
        // SAFETY: nobody uses the mapping any more.
        unsafe { munmap(start.as_ptr().cast(), len) }.unwrap();
    }
}
