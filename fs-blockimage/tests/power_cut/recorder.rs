//! What happened to an image, in the order in which it happened: to its files, and to its content.

use std::{
    io, mem,
    sync::{Mutex, MutexGuard},
};

use fsrv_blockimage::{HostOp, Probe};

/// An operation, and when it ran.
#[derive(Clone, Debug)]
pub(crate) struct Span<T> {
    pub(crate) op: T,
    pub(crate) start: u64,
    /// `None` while it runs.
    pub(crate) end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) at: u64,
    pub(crate) succeeded: bool,
}

impl<T> Span<T> {
    /// Whether it was over at that time, whatever its result.
    pub(crate) fn is_over(&self, at: u64) -> bool {
        self.end.is_some_and(|end| end.at < at)
    }

    /// Whether it had succeeded at that time.
    pub(crate) fn is_done(&self, at: u64) -> bool {
        self.end.is_some_and(|end| end.at < at && end.succeeded)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.end.is_some_and(|end| !end.succeeded)
    }
}

/// What a client does to the content of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum GuestOp {
    Write { offset: u64, data: Vec<u8> },
    Zero { offset: u64, len: u64 },
    Grow(u64),
    Flush,
}

/// All operations on an image. Times are those of one clock, that no two events share.
#[derive(Clone, Default)]
pub(crate) struct Log {
    pub(crate) now: u64,
    pub(crate) host: Vec<Span<HostOp>>,
    pub(crate) guest: Vec<Span<GuestOp>>,
}

impl Log {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
}

/// A fault of the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// The first operation that fails, from 0 on.
    pub(crate) nth: u64,
    pub(crate) errno: i32,
    /// Whether all that follow fail too.
    pub(crate) lasts: bool,
}

/// Records what is done to an image, and makes the host fail where that was asked for.
#[derive(Default)]
pub(crate) struct Recorder {
    log: Mutex<Log>,
    fault: Mutex<Option<Fault>>,
}

impl Recorder {
    pub(crate) fn with(fault: Fault) -> Self {
        Self { fault: Mutex::new(Some(fault)), ..Self::default() }
    }

    /// The host is as good as new.
    pub(crate) fn mend(&self) {
        *self.fault.lock().unwrap() = None;
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    pub(crate) fn take_log(&self) -> Log {
        mem::take(&mut *self.log())
    }

    /// Runs what a client does, which results in whether it was done.
    pub(crate) async fn guest<T>(
        &self,
        op: GuestOp,
        run: impl Future<Output = io::Result<T>>,
        is_whole: impl FnOnce(&T) -> bool,
    ) -> io::Result<T> {
        let index = {
            let mut log = self.log();
            let start = log.tick();
            log.guest.push(Span { op, start, end: None });
            log.guest.len() - 1
        };
        let result = run.await;
        let succeeded = result.as_ref().is_ok_and(is_whole);
        let mut log = self.log();
        let at = log.tick();
        log.guest[index].end = Some(End { at, succeeded });
        result
    }

    /// The error of the next operation of the host.
    fn fails(&self) -> Option<i32> {
        let mut fault = self.fault.lock().unwrap();
        let found = fault.as_mut()?;
        if found.nth > 0 {
            found.nth -= 1;
            return None;
        }
        let errno = found.errno;
        if !found.lasts {
            *fault = None;
        }
        Some(errno)
    }
}

impl Probe for Recorder {
    fn before(&self, op: &HostOp) -> io::Result<u64> {
        let failure = self.fails();
        let mut log = self.log();
        let start = log.tick();
        let end = failure.map(|_| End { at: log.tick(), succeeded: false });
        log.host.push(Span { op: op.clone(), start, end });
        match failure {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(log.host.len() as u64 - 1),
        }
    }

    fn after(&self, number: u64, succeeded: bool) {
        let mut log = self.log();
        let at = log.tick();
        log.host[usize::try_from(number).unwrap()].end = Some(End { at, succeeded });
    }
}
