//! A file that answers when the test says so: one of a FUSE server, of as little as that takes.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use fsrv_transport::{
    fuse_dev::{Device, Mount, MountOptions, mount},
    io::File,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read, write},
};

use super::{DIRECT, open, options};

/// How many bytes the file has, each of them [`BYTE`].
const SIZE: u32 = 1 << 20;
pub(crate) const BYTE: u8 = 0xee;

const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const INIT: u32 = 26;
/// FORGET, INTERRUPT and BATCH_FORGET.
const UNANSWERED: [u32; 3] = [2, 36, 42];

/// FUSE_ASYNC_READ, and FUSE_ASYNC_DIO: whoever submits such a read need not wait for it.
const INIT_FLAGS: u32 = 1 | 1 << 15;
/// FOPEN_DIRECT_IO: no page cache between a reader's memory and the answer. FOPEN_NOFLUSH: nobody waits for a
/// close, which the kernel does for a process that is killed, too.
const OPEN_FLAGS: u32 = 1 | 1 << 5;

/// The file, and who serves it.
pub(crate) struct LateFile {
    path: PathBuf,
    mount: Mount,
    served: Arc<Served>,
    _dir: tempfile::TempDir,
}

struct Served {
    device: Device,
    /// Requests stay where they are, in the kernel, which has taken none of their data.
    held: AtomicBool,
    written: Mutex<Vec<u8>>,
}

impl LateFile {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("late");
        fs::write(&path, "").unwrap();
        let (mount, device) = mount(&path, &MountOptions::new("late").over_file()).unwrap();
        let served = Served { device, held: AtomicBool::new(false), written: Mutex::default() };
        let served = Arc::new(served);
        let server = served.clone();
        thread::spawn(move || server.run());
        Self { path, mount, served, _dir: dir }
    }

    pub(crate) fn open(&self) -> File {
        open(&self.path, &options(true, true, DIRECT))
    }

    /// Answers nothing from here on.
    pub(crate) fn hold(&self) {
        self.served.held.store(true, Ordering::SeqCst);
        // The server looks that often; what it has taken by then was sent before.
        thread::sleep(10 * TURN);
    }

    pub(crate) fn go_on(&self) {
        self.served.held.store(false, Ordering::SeqCst);
    }

    /// Whether a request waits for its answer.
    pub(crate) fn is_asked(&self) -> bool {
        let mut fds = [PollFd::new(&self.served.device, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    /// What was written last.
    pub(crate) fn written(&self) -> Vec<u8> {
        self.served.written().clone()
    }
}

impl Drop for LateFile {
    fn drop(&mut self) {
        self.go_on();
        // The server ends with the last descriptor of the file.
        let _ = self.mount.detach();
    }
}

const TURN: Duration = Duration::from_millis(1);

impl Served {
    fn written(&self) -> MutexGuard<'_, Vec<u8>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut message = vec![0; 1 << 20];
        loop {
            if self.held.load(Ordering::SeqCst) {
                thread::sleep(TURN);
                continue;
            }
            match read(&self.device, &mut message) {
                Ok(len) => self.answer(&message[..len]),
                Err(Errno::AGAIN) => thread::sleep(TURN),
                Err(error) => return assert_eq!(error, Errno::NODEV),
            }
        }
    }

    fn answer(&self, message: &[u8]) {
        let word = |at: usize| u32::from_ne_bytes(message[at..at + 4].try_into().unwrap());
        let (error, body) = match word(4) {
            INIT => (0, words(64, &[(0, 7), (4, 31), (12, INIT_FLAGS), (20, 4096)])),
            // The size, the mode, the links.
            GETATTR => (0, words(104, &[(16, 1), (24, SIZE), (76, 0o100_666), (80, 1)])),
            OPEN => (0, words(16, &[(8, OPEN_FLAGS)])),
            READ => (0, vec![BYTE; word(56) as usize]),
            WRITE => {
                *self.written() = message[80..].to_vec();
                (0, words(8, &[(0, word(56))]))
            }
            code if UNANSWERED.contains(&code) => return,
            _ => (-Errno::NOSYS.raw_os_error(), Vec::new()),
        };
        let len = u32::try_from(16 + body.len()).unwrap();
        let header = [&len.to_ne_bytes(), &error.to_ne_bytes(), &message[8..16]].concat();
        write(&self.device, &[header, body].concat()).unwrap();
    }
}

/// `len` bytes, zero but for the words given with their offsets.
fn words(len: usize, set: &[(usize, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for &(at, word) in set {
        bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}
