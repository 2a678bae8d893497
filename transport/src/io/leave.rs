//! The end of a process that has files of a filesystem open which does not answer.
//!
//! The kernel closes what a process leaves open before it tells of the process's end, and closing a file of a FUSE
//! filesystem waits for an answer, whatever signal comes.

use std::{
    collections::HashMap,
    fs, mem,
    os::fd::{AsFd, BorrowedFd, RawFd},
    process, ptr, thread,
    time::{Duration, Instant},
};

use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags, fcntl_getfl, statx};

use super::HostMount;

/// How long files of others may take to close before they are left.
const CLOSE_LIMIT: Duration = Duration::from_millis(300);

const RETRY: Duration = Duration::from_millis(5);

/// Ends the process with `code`. Files of FUSE filesystems that do not close soon are left to a process of its own, which
/// ends when they do; all other files are closed here. Threads that wait for such a filesystem end with the process when it
/// has not begun what they wait for.
///
/// For programs: nothing else of this process runs any more.
pub fn exit(code: i32) -> ! {
    let start = Instant::now();
    let mut left = left_open();
    while !left.is_empty() && start.elapsed() < CLOSE_LIMIT {
        thread::sleep(RETRY);
        left = left_open();
    }
    if !left.is_empty() && leave(&left) {
        for (first, last) in between(&left) {
            // SAFETY: nothing of this process runs any more but threads that wait for what does not answer; who uses one of
            // these numbers gets an error, because none is opened again before the next call.
            unsafe { libc::close_range(first, last, 0) };
        }
        // SAFETY: it only ends the process.
        unsafe { libc::_exit(code) };
    }
    process::exit(code)
}

/// The open files of FUSE filesystems, in order. Directories, and what is open by O_PATH, close without an answer.
fn left_open() -> Vec<RawFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let mut mounts = HashMap::new();
    let mut left: Vec<RawFd> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        // SAFETY: the number is only asked about, and the kernel says so where it is no longer open.
        .filter(|&fd| waits_at_close(unsafe { BorrowedFd::borrow_raw(fd) }, &mut mounts))
        .collect();
    left.sort_unstable();
    left
}

fn waits_at_close(fd: BorrowedFd<'_>, mounts: &mut HashMap<u64, bool>) -> bool {
    let is_path = || fcntl_getfl(fd).map_or(true, |flags| flags.contains(OFlags::PATH));
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let Ok(stat) = statx(fd, c"", flags, StatxFlags::TYPE | StatxFlags::MNT_ID) else {
        return false;
    };
    FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile
        && *mounts.entry(stat.stx_mnt_id).or_insert_with(|| HostMount::of(fd.as_fd()).is_fuse())
        && !is_path()
}

/// The numbers before, between and behind `left`.
fn between(left: &[RawFd]) -> Vec<(u32, u32)> {
    let mut ranges = Vec::new();
    let mut first = 0;
    for number in left.iter().map(|fd| fd.cast_unsigned()) {
        if first < number {
            ranges.push((first, number - 1));
        }
        first = number + 1;
    }
    ranges.push((first, u32::MAX));
    ranges
}

/// Starts a process that shares this one's descriptors, and with that has those of `left` when this one ends. Returns whether
/// there is one.
fn leave(left: &[RawFd]) -> bool {
    tracing::warn!(
        "{} files of a filesystem that does not answer are left to a process of their own",
        left.len()
    );
    // SAFETY: a `clone_args` is plain numbers, and 0 asks for nothing.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = libc::CLONE_FILES as u64;
    let parent = process::id().cast_signed();
    // SAFETY: without CLONE_VM the new process has memory of its own. It makes no call but the three below, which are
    // system calls and take no lock.
    let child =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    if child != 0 {
        return child > 0;
    }
    let moment = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    loop {
        // SAFETY: they read `moment`, and change nothing.
        unsafe {
            if libc::getppid() != parent {
                libc::_exit(0);
            }
            libc::nanosleep(&raw const moment, ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_between_some_are_all_others() {
        assert_eq!(between(&[]), [(0, u32::MAX)]);
        assert_eq!(between(&[0, 1, 5]), [(2, 4), (6, u32::MAX)]);
        assert_eq!(between(&[7]), [(0, 6), (8, u32::MAX)]);
    }

    #[test]
    fn local_files_are_not_left() {
        let file = tempfile::tempfile().unwrap();
        assert!(!waits_at_close(file.as_fd(), &mut HashMap::new()));
    }
}
