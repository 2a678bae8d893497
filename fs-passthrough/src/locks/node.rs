//! The locks of one inode: who holds what, and who waits for it.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use fsrv::{
    Errno, Fh, Result,
    types::{FileLock, LockKind, LockOwner},
};
use tokio::sync::Notify;

use super::{
    LockRequest, Style, WaitId,
    deadlock::WaitGraph,
    host::{Answer, HostFile, Opener},
    ranges::{Mode, Ranges, Span},
};
use crate::{descriptors::Held, mutex::lock};

/// What became of a try.
pub(super) enum Verdict {
    /// It is done.
    Granted,
    /// These owners are in the way.
    Held(Vec<LockOwner>),
    /// A process of the host is.
    HeldByHost,
}

/// How many locks may be held in all, and are.
pub(super) struct Budget {
    held: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self { held: AtomicUsize::new(0), limit }
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn take(&self, n: usize) -> Result<()> {
        let taken = |held: usize| held.checked_add(n).filter(|&held| n == 0 || held <= self.limit);
        let result = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken);
        result.map(drop).map_err(|_| Errno::ENOLCK)
    }

    fn give_back(&self, n: usize) {
        self.held.fetch_sub(n, Ordering::Relaxed);
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct NodeLocks {
    posix: HashMap<LockOwner, PosixLocks>,
    flock: HashMap<LockOwner, Flock>,
    /// In the order in which they came.
    waiters: Vec<Waiter>,
    /// How many locks were granted so far.
    grants: u64,
}

struct PosixLocks {
    ranges: Ranges,
    file: HostFile,
    /// Who took a lock last, in the client's numbers.
    pid: u32,
    /// Through which handle.
    fh: Fh,
    /// Which grant that was.
    grant: u64,
}

struct Flock {
    mode: Mode,
    file: HostFile,
    fh: Fh,
    /// Which grant that was.
    grant: u64,
}

/// A request that waits.
pub(super) struct Waiter {
    pub(super) id: WaitId,
    pub(super) request: LockRequest,
    pub(super) state: WaitState,
    pub(super) bell: Arc<Notify>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WaitState {
    /// It tries now, or again after a while: it needs no wake-up.
    Trying,
    /// Another owner is in the way.
    Blocked,
    /// It was told to try again. Those behind it that would be in its way wait until it has.
    Woken,
    /// Everything is over.
    Cancelled,
}

impl NodeLocks {
    pub(super) fn is_empty(&self) -> bool {
        self.posix.is_empty() && self.flock.is_empty() && self.waiters.is_empty()
    }

    /// Does what is asked if nobody is in the way.
    pub(super) fn grant<F: FnOnce() -> io::Result<Held>>(
        &mut self,
        request: &LockRequest,
        opener: &mut Opener<F>,
        budget: &Budget,
    ) -> Result<Verdict> {
        match request.style {
            Style::Posix => self.grant_posix(request, opener, budget),
            Style::Flock => self.grant_flock(request, opener, budget),
        }
    }

    fn grant_posix<F: FnOnce() -> io::Result<Held>>(
        &mut self,
        request: &LockRequest,
        opener: &mut Opener<F>,
        budget: &Budget,
    ) -> Result<Verdict> {
        let holders = self.holders(request);
        if !holders.is_empty() {
            return Ok(Verdict::Held(holders));
        }
        let LockRequest { owner, fh, lock, .. } = *request;
        let mode = Mode::of(lock.kind);
        let mut held = match self.posix.remove(&owner) {
            Some(held) => held,
            None if mode.is_none() => return Ok(Verdict::Granted),
            None => {
                let file = opener.file()?;
                PosixLocks { ranges: Ranges::default(), file, pid: lock.pid, fh, grant: 0 }
            }
        };
        let answer = held.change(&lock, budget);
        if matches!(answer, Ok(Answer::Granted)) && mode.is_some() {
            self.grants += 1;
            (held.pid, held.fh, held.grant) = (lock.pid, fh, self.grants);
        }
        if held.ranges.is_empty() {
            opener.keep(held.file);
        } else {
            self.posix.insert(owner, held);
        }
        Ok(match answer? {
            Answer::Granted => Verdict::Granted,
            Answer::Refused => Verdict::HeldByHost,
        })
    }

    /// A conversion gives up what was held before it takes the other lock, as on Linux. Two readers
    /// who both want to write would otherwise wait for each other for ever.
    fn grant_flock<F: FnOnce() -> io::Result<Held>>(
        &mut self,
        request: &LockRequest,
        opener: &mut Opener<F>,
        budget: &Budget,
    ) -> Result<Verdict> {
        let LockRequest { owner, fh, lock, .. } = *request;
        let mode = Mode::of(lock.kind);
        if self.flock.get(&owner).is_some_and(|held| Some(held.mode) == mode) {
            return Ok(Verdict::Granted);
        }
        let former = self.flock.remove(&owner).map(|held| held.file);
        budget.give_back(usize::from(former.is_some()));
        let Some(mode) = mode else { return Ok(Verdict::Granted) };
        let holders = self.holders(request);
        if !holders.is_empty() {
            return Ok(Verdict::Held(holders));
        }
        let file = match former {
            Some(file) => file,
            None => opener.file()?,
        };
        budget.take(1)?;
        match file.set(&lock) {
            Ok(Answer::Granted) => {
                self.grants += 1;
                self.flock.insert(owner, Flock { mode, file, fh, grant: self.grants });
                Ok(Verdict::Granted)
            }
            refused => {
                budget.give_back(1);
                opener.keep(file);
                refused?;
                Ok(Verdict::HeldByHost)
            }
        }
    }

    /// The other owners whose locks are in the way of this request.
    fn holders(&self, request: &LockRequest) -> Vec<LockOwner> {
        let Some(mode) = Mode::of(request.lock.kind) else { return Vec::new() };
        let other = |owner: &LockOwner| *owner != request.owner;
        match request.style {
            Style::Posix => self
                .posix
                .iter()
                .filter(|(owner, held)| {
                    other(owner) && held.ranges.find(request.span(), Some(mode)).is_some()
                })
                .map(|(owner, _)| *owner)
                .collect(),
            Style::Flock => self
                .flock
                .iter()
                .filter(|(owner, held)| other(owner) && held.mode.excludes(mode))
                .map(|(owner, _)| *owner)
                .collect(),
        }
    }

    /// The first lock in the way of `lock`; for an unlock, the first that it would drop.
    pub(super) fn conflict(&self, owner: LockOwner, lock: &FileLock) -> Option<FileLock> {
        let span = Span { start: lock.start, end: lock.end };
        let mode = Mode::of(lock.kind);
        self.posix
            .iter()
            .filter(|(holder, _)| (**holder == owner) == mode.is_none())
            .filter_map(|(_, held)| held.ranges.find(span, mode).map(|range| (range, held.pid)))
            .min_by_key(|(range, _)| range.span.start)
            .map(|(range, pid)| {
                let Span { start, end } = range.span;
                FileLock { start, end, kind: range.mode.kind(), pid }
            })
    }

    /// A POSIX lock of the host in the way of `lock`.
    pub(super) fn host_conflict<F: FnOnce() -> io::Result<Held>>(
        &self,
        owner: LockOwner,
        lock: &FileLock,
        opener: &mut Opener<F>,
    ) -> io::Result<Option<FileLock>> {
        match self.posix.get(&owner) {
            Some(held) => held.file.conflict(lock),
            None => opener.file()?.conflict(lock),
        }
    }

    /// Drops what `request` asked for, and got.
    pub(super) fn revoke(&mut self, request: &LockRequest, budget: &Budget) {
        match request.style {
            Style::Flock => self.drop_flock(budget, |owner, _| owner == request.owner),
            Style::Posix => {
                let Some(mut held) = self.posix.remove(&request.owner) else { return };
                let unlock = FileLock { kind: LockKind::Unlock, ..request.lock };
                // What cannot be dropped stays here and on the host.
                let _ = held.change(&unlock, budget);
                if held.ranges.is_empty() {
                    held.file.close();
                } else {
                    self.posix.insert(request.owner, held);
                }
            }
        }
    }

    /// Whether the owner of `request` holds any of what it is about.
    pub(super) fn holds(&self, request: &LockRequest) -> bool {
        match request.style {
            Style::Posix => self
                .posix
                .get(&request.owner)
                .is_some_and(|held| held.ranges.find(request.span(), None).is_some()),
            Style::Flock => self.flock.contains_key(&request.owner),
        }
    }

    /// The number of what was granted last to the owner of `request`, 0 for nothing.
    pub(super) fn last_grant(&self, request: &LockRequest) -> u64 {
        match request.style {
            Style::Posix => self.posix.get(&request.owner).map_or(0, |held| held.grant),
            Style::Flock => self.flock.get(&request.owner).map_or(0, |held| held.grant),
        }
    }

    /// Drops the POSIX locks of owners that `goes` picks.
    pub(super) fn drop_posix(&mut self, budget: &Budget, goes: impl Fn(LockOwner, Fh) -> bool) {
        for (_, held) in self.posix.extract_if(|owner, held| goes(*owner, held.fh)) {
            budget.give_back(held.ranges.len());
            held.file.close();
        }
    }

    /// Drops the flocks of owners that `goes` picks.
    pub(super) fn drop_flock(&mut self, budget: &Budget, goes: impl Fn(LockOwner, Fh) -> bool) {
        for (_, held) in self.flock.extract_if(|owner, held| goes(*owner, held.fh)) {
            budget.give_back(1);
            held.file.close();
        }
    }

    /// Ends all waits.
    pub(super) fn cancel(&mut self) {
        for waiter in &mut self.waiters {
            waiter.state = WaitState::Cancelled;
            waiter.bell.notify_one();
        }
    }

    pub(super) fn add_waiter(&mut self, waiter: Waiter) {
        self.waiters.push(waiter);
    }

    pub(super) fn remove_waiter(&mut self, id: WaitId) {
        self.waiters.retain(|waiter| waiter.id != id);
    }

    pub(super) fn waiter(&mut self, id: WaitId) -> Option<&mut Waiter> {
        self.waiters.iter_mut().find(|waiter| waiter.id == id)
    }

    /// After a change in `span`: tells those waiters to try again that nobody is in the way of any
    /// more, first come first, and not two who exclude each other; and those who by this change wait
    /// in a circle.
    pub(super) fn wake(&mut self, style: Style, span: Span, graph: &Mutex<WaitGraph>) {
        for index in 0..self.waiters.len() {
            let waiter = &self.waiters[index];
            let LockRequest { owner, .. } = waiter.request;
            let is_concerned = waiter.state == WaitState::Blocked
                && waiter.request.style == style
                && waiter.request.span().overlaps(span);
            if !is_concerned {
                continue;
            }
            let holders = self.holders(&waiter.request);
            let goes_on = if !holders.is_empty() {
                style == Style::Posix && lock(graph).wait(waiter.id, owner, holders)
            } else {
                let is_woken = |earlier: &Waiter| earlier.state == WaitState::Woken;
                let excludes = |earlier: &Waiter| earlier.request.excludes(&waiter.request);
                lock(graph).end(waiter.id, owner);
                !self.waiters[..index].iter().any(|earlier| is_woken(earlier) && excludes(earlier))
            };
            if goes_on {
                self.waiters[index].state = WaitState::Woken;
                self.waiters[index].bell.notify_one();
            }
        }
    }
}

impl PosixLocks {
    /// Here and on the host, or nowhere.
    fn change(&mut self, lock: &FileLock, budget: &Budget) -> Result<Answer> {
        let span = Span { start: lock.start, end: lock.end };
        let edit = self.ranges.edit(span, Mode::of(lock.kind));
        let (come, go) = edit.counts();
        budget.take(come.saturating_sub(go))?;
        let answer = self.file.set(lock);
        if matches!(answer, Ok(Answer::Granted)) {
            self.ranges.apply(edit);
            budget.give_back(go.saturating_sub(come));
        } else {
            budget.give_back(come.saturating_sub(go));
        }
        Ok(answer?)
    }
}
