//! What a client does with a disk.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use fsrv_blockimage::{Disk, Format, OpenError, Options, Zeroing};
use fsrv_transport::{
    io::Engine,
    mem::{InBuf, OutBuf, Pool},
    worker::Worker,
};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::input::Input;

/// One request.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Read { at: u64, len: usize },
    Write { at: u64, len: usize },
    Zero { at: u64, len: u64, how: Zeroing },
    SetLen(u64),
    Allocate(u64),
    Flush,
    NextData(u64),
    NextHole(u64),
}

/// Longer than anything here may take, also with a sanitizer.
const PATIENCE: Duration = Duration::from_secs(20);

impl Op {
    /// Whatever comes of it is right, as long as it is an answer.
    async fn run(&self, disk: &Disk, pool: &Pool) -> io::Result<()> {
        let inside = |at: u64, len: usize| disk.len().saturating_sub(at).min(len as u64);
        match *self {
            Self::Read { at, len } => {
                let read = disk.read(OutBuf::new(pool, len), at).await?;
                assert_eq!(read.len() as u64, inside(at, len), "{self:?}");
            }
            Self::Write { at, len } => {
                let written = disk.write(InBuf::copied(pool, &vec![0x77; len]), at).await?;
                assert!(written as u64 <= inside(at, len), "{self:?}");
            }
            Self::Zero { at, len, how } => disk.zero(at, len, how).await?,
            Self::SetLen(len) => disk.set_len(len).await?,
            Self::Allocate(len) => disk.grow(len, true).await?,
            Self::Flush => disk.flush().await?,
            Self::NextData(at) => {
                let found = disk.next_data(at).await?;
                assert!(found.is_none_or(|found| found >= at), "{self:?}: {found:?}");
            }
            Self::NextHole(at) => {
                let found = disk.next_hole(at).await?;
                assert!(found >= at.min(disk.len()), "{self:?}: {found}");
            }
        }
        Ok(())
    }
}

/// Runs `main` on a worker.
pub(crate) fn on_worker<F: Future<Output = ()>>(main: impl FnOnce() -> F + Send + 'static) {
    let worker = Worker { name: "test".into(), cpu: None, engine: Engine::Threads };
    let main = move || async move {
        main().await;
        Ok(())
    };
    worker.spawn(|| Ok(()), main).unwrap().join().expect("it panicked").unwrap();
}

/// A worker that takes one image after the other.
pub(crate) struct Trial {
    images: Sender<Input>,
    answers: Receiver<()>,
}

impl Trial {
    pub(crate) fn start() -> Self {
        let (images, next) = channel::<Input>();
        let (answer, answers) = channel();
        thread::spawn(move || {
            on_worker(move || async move {
                for input in next {
                    try_all(&input.image, Format::Qcow2, &input.ops).await;
                    answer.send(()).unwrap();
                }
            });
        });
        Self { images, answers }
    }

    /// Tries an image; panics when something is wrong.
    pub(crate) fn run(&self, input: Input) {
        self.images.send(input).unwrap();
        self.answers.recv().expect("it panicked");
    }
}

/// An image in memory.
pub(crate) struct File(OwnedFd);

impl File {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let file = memfd_create("image", MemfdFlags::CLOEXEC).unwrap();
        let mut done = 0;
        while done < bytes.len() {
            done += rustix::io::pwrite(&file, &bytes[done..], done as u64).unwrap();
        }
        Self(file)
    }

    pub(crate) fn options(&self, format: Format, writable: bool) -> Options {
        Options {
            path: format!("/proc/self/fd/{}", self.0.as_raw_fd()).into(),
            format: Some(format),
            writable,
            direct: false,
            allow_backing: Vec::new(),
        }
    }
}

/// Opens the image and does all that, first only to read, then to write.
async fn try_all(bytes: &[u8], format: Format, ops: &[Op]) {
    let began = Instant::now();
    for writable in [false, true] {
        let file = File::new(bytes);
        match Disk::open(&file.options(format, writable)).await {
            Ok(disk) => do_all(&disk, ops).await,
            Err(error) => check_message(&error),
        }
    }
    assert!(began.elapsed() < PATIENCE, "it took {:?}", began.elapsed());
}

async fn do_all(disk: &Disk, ops: &[Op]) {
    let pool = Pool::new();
    for op in ops {
        // An error is an answer.
        let _ = op.run(disk, &pool).await;
    }
}

/// One line, and nothing in it that changes a terminal.
pub(crate) fn check_message(error: &OpenError) {
    let said = error.to_string();
    assert!(!said.chars().any(char::is_control), "{said:?}");
    assert!(said.len() < 4096, "{said:?}");
}
