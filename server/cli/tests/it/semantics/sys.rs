//! System calls that rustix does not have, or has as unsafe.
#![expect(unsafe_code, reason = "fcntl locks, file handles and mappings take pointers")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{c_int, c_short};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
use rustix::process::Pid;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives this thread a working directory and umask of its own.
pub(crate) fn own_umask() -> rustix::io::Result<()> {
    // SAFETY: only working directory, root and umask are concerned, and no descriptor.
    unsafe { unshare_unsafe(UnshareFlags::FS) }
}

/// Makes this thread a process of its own for locks: it has its own table of descriptors, which begins as a copy.
pub(crate) fn own_descriptors() -> rustix::io::Result<()> {
    // SAFETY: descriptors that the copies are made of stay what they are; those that this thread opens or closes from
    // here on are used by it alone.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }
}

/// Bytes of a file, the last of them at `u64::MAX` for "to the end".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes {
    pub(crate) start: i64,
    /// 0 reaches to the end.
    pub(crate) len: i64,
}

pub(crate) const ALL: Bytes = Bytes { start: 0, len: 0 };

/// `fcntl(2)` with a `struct flock`. Returns the kind and the pid that came back.
pub(crate) fn lock(
    file: impl AsFd,
    command: c_int,
    kind: c_int,
    bytes: Bytes,
) -> io::Result<(c_int, i32)> {
    let mut flock = libc::flock64 {
        l_type: kind as c_short,
        l_whence: libc::SEEK_SET as c_short,
        l_start: bytes.start,
        l_len: bytes.len,
        l_pid: 0,
    };
    // SAFETY: each lock command takes a `struct flock64`.
    let result = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, &raw mut flock) };
    check(result)?;
    Ok((flock.l_type.into(), flock.l_pid))
}

/// `FS_IOC_MEASURE_VERITY`: the digest of a file that fs-verity protects.
pub(crate) fn measure_verity(file: impl AsFd) -> io::Result<Vec<u8>> {
    let mut digest = vec![0u8; 4 + 64];
    digest[2] = 64;
    // SAFETY: the digest begins with two numbers of 16 bits, and as many bytes as the second says follow.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), 0xc004_6686, digest.as_mut_ptr()) })?;
    Ok(digest)
}

/// `FS_IOC_ENABLE_VERITY` with SHA-256, blocks of 4 KiB and a salt.
pub(crate) fn enable_verity(file: impl AsFd) -> io::Result<()> {
    let salt = [7u8; 8];
    let (version, sha256, block, salt_len) = (1, 1, 4096, salt.len() as u64);
    let mut arg = [0u64; 16];
    arg[0] = version | sha256 << 32;
    arg[1] = block | salt_len << 32;
    arg[2] = salt.as_ptr().addr() as u64;
    // SAFETY: `arg` has the size and layout of `struct fsverity_enable_arg`, and names the eight bytes of `salt`.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), 0x4080_6685, arg.as_ptr()) })
}

/// A file handle, as a client of the mount gets it.
#[repr(C)]
#[derive(Clone)]
pub(crate) struct Handle {
    bytes: u32,
    kind: c_int,
    handle: [u8; 128],
}

/// `name_to_handle_at(2)`.
pub(crate) fn handle_of(path: &Path) -> io::Result<Handle> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut handle = Handle { bytes: 128, kind: 0, handle: [0; 128] };
    let mut mount = 0;
    // SAFETY: the path is a C string, and `handle` a `struct file_handle` with room for the largest.
    let result = unsafe {
        let handle = (&raw mut handle).cast();
        libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), handle, &raw mut mount, 0)
    };
    check(result)?;
    Ok(handle)
}

/// `open_by_handle_at(2)` on the mount of `mount`.
pub(crate) fn open_handle(mount: &File, handle: &Handle, flags: c_int) -> io::Result<File> {
    let mut handle = handle.clone();
    // SAFETY: `handle` is a whole `struct file_handle`.
    let fd = unsafe {
        let handle = (&raw mut handle).cast();
        libc::open_by_handle_at(mount.as_raw_fd(), handle, flags | libc::O_CLOEXEC)
    };
    check(fd)?;
    // SAFETY: the call has just returned this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// A shared mapping of the start of a file.
pub(crate) struct Mapping {
    address: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    pub(crate) fn new(file: &File, len: usize) -> rustix::io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an address where nothing is.
        let address =
            unsafe { mmap(std::ptr::null_mut(), len, access, MapFlags::SHARED, file, 0)? };
        Ok(Self { address, len })
    }

    pub(crate) fn write(&mut self, at: usize, byte: u8) {
        assert!(at < self.len);
        // SAFETY: the byte is inside the mapping, and the caller's file is that long.
        unsafe { self.address.cast::<u8>().add(at).write_volatile(byte) }
    }

    pub(crate) fn read(&self, at: usize) -> u8 {
        assert!(at < self.len);
        // SAFETY: as in `write`.
        unsafe { self.address.cast::<u8>().add(at).read_volatile() }
    }

    pub(crate) fn sync(&self) -> rustix::io::Result<()> {
        // SAFETY: it is our mapping.
        unsafe { msync(self.address, self.len, MsyncFlags::SYNC) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is our mapping, and nobody has an address in it.
        let _ = unsafe { munmap(self.address, self.len) };
    }
}

/// Memory at an address that O_DIRECT takes.
#[repr(C, align(4096))]
pub(crate) struct Aligned(pub(crate) [u8; 8192]);

/// Lets SIGUSR1 interrupt system calls and do nothing else.
pub(crate) fn interrupted_by_usr1() {
    extern "C" fn nothing(_: c_int) {}
    // SAFETY: the handler does nothing, and the action is whole: no flags, an empty mask.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        check(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()))
            .expect("a handler");
    }
}

/// Signals one thread of another process.
pub(crate) fn signal_thread(process: Pid, thread: i32, signal: c_int) -> io::Result<()> {
    let process = process.as_raw_nonzero().get();
    // SAFETY: no memory is involved.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
    check(result as c_int)
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `truncate(2)`.
pub(crate) fn truncate(path: &std::ffi::CStr, size: i64) -> io::Result<()> {
    // SAFETY: the path is a C string.
    check(unsafe { libc::truncate64(path.as_ptr(), size) })
}
