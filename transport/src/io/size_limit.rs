//! A file that may not grow (RLIMIT_FSIZE) is an error to its writer, EFBIG, and no signal to this process.
//!
//! The kernel sends SIGXFSZ to the thread that asked, and by default that ends the process. What the process does with
//! the signal belongs to whoever embeds us, so it is blocked, on threads of ours for good: what is pending for a thread
//! ends with it. io_uring's own threads take no signals.

use std::{cell::Cell, mem::MaybeUninit, ptr};

use libc::{SIG_BLOCK, SIG_SETMASK, SIGXFSZ, sigset_t};

thread_local!(static IS_BLOCKED: Cell<bool> = const { Cell::new(false) });

/// Blocks the signal on this thread, which is ours, until it ends.
pub(crate) fn block() {
    change_mask(SIG_BLOCK, &only_sigxfsz());
    IS_BLOCKED.set(true);
}

/// Runs `call`, which may let a file grow. On a thread that is not ours, the signal is blocked as long as that takes,
/// and one that `call` has caused is gone.
pub(super) fn guarded<T>(call: impl FnOnce() -> T) -> T {
    if IS_BLOCKED.get() {
        return call();
    }
    let _guard = Guard::new();
    call()
}

struct Guard {
    /// The mask of the thread.
    former: sigset_t,
    /// One was waiting, and not for us.
    was_pending: bool,
}

impl Guard {
    fn new() -> Self {
        let former = change_mask(SIG_BLOCK, &only_sigxfsz());
        Self { former, was_pending: has_sigxfsz(&former) && is_pending() }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.was_pending {
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the set and the time are read, and nothing is asked about the signal.
            unsafe { libc::sigtimedwait(&only_sigxfsz(), ptr::null_mut(), &now) };
        }
        change_mask(SIG_SETMASK, &self.former);
    }
}

fn only_sigxfsz() -> sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the first call makes it a set, and neither can fail for a signal that exists.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), SIGXFSZ);
        set.assume_init()
    }
}

/// Changes the mask of this thread, and returns the former one.
fn change_mask(how: i32, set: &sigset_t) -> sigset_t {
    let mut former = only_sigxfsz();
    // SAFETY: both are sets, and with a known `how` the call cannot fail.
    unsafe { libc::pthread_sigmask(how, set, &mut former) };
    former
}

fn is_pending() -> bool {
    let mut pending = only_sigxfsz();
    // SAFETY: it is a set, and the call cannot fail.
    unsafe { libc::sigpending(&mut pending) };
    has_sigxfsz(&pending)
}

fn has_sigxfsz(set: &sigset_t) -> bool {
    // SAFETY: it is a set, and the signal exists.
    unsafe { libc::sigismember(set, SIGXFSZ) == 1 }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn raise() {
        // SAFETY: the signal goes to this thread, and exists.
        unsafe { libc::raise(SIGXFSZ) };
    }

    #[test]
    fn a_signal_of_a_guarded_call_is_gone_and_the_mask_is_as_it_was() {
        thread::spawn(|| {
            guarded(raise);
            assert!(!is_pending());
            assert!(!has_sigxfsz(&change_mask(SIG_BLOCK, &only_sigxfsz())));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_signal_that_waited_before_a_guarded_call_waits_behind_it() {
        thread::spawn(|| {
            change_mask(SIG_BLOCK, &only_sigxfsz());
            raise();
            guarded(raise);
            assert!(is_pending());
            assert!(has_sigxfsz(&change_mask(SIG_BLOCK, &only_sigxfsz())));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn on_a_thread_of_ours_the_signal_waits_for_its_end() {
        thread::spawn(|| {
            block();
            guarded(raise);
            assert!(is_pending());
        })
        .join()
        .unwrap();
    }
}
