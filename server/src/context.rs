//! What a request knows of its caller, and whether the caller still waits.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    ops::Deref,
    rc::Rc,
    sync::Arc,
    task::{self, Poll},
};

use super::sync::{AtomicBool, AtomicU32, AtomicU64, AtomicWaker, Ordering};
use crate::{
    errno::{Errno, Result},
    op::Opcode,
};

/// Who asks, and whether they still wait for the answer.
pub struct Context {
    /// The request's number, unique among those in flight, but for one that was sent again: it has that of the first.
    pub unique: u64,
    /// What is asked for.
    pub opcode: Opcode,
    /// The caller's user, in the client's numbers.
    pub uid: u32,
    /// The caller's group.
    pub gid: u32,
    /// The caller's process, 0 when it has no number here.
    pub pid: u32,
    /// The group of the parent directory when the caller is in it: of the caller's further groups it
    /// is the one that matters for creation.
    pub group: Option<u32>,
    pub(crate) flight: InFlight,
    pub(crate) parking: Rc<Parking>,
}

impl Context {
    /// Whether the client sent INTERRUPT for this request, or is gone.
    pub fn is_interrupted(&self) -> bool {
        self.flight.is_interrupted(self.unique)
    }

    /// Resolves when the client sends INTERRUPT for this request, or is gone. A request that ends for
    /// this reason answers EINTR.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn interrupted(&self) {
        poll_fn(|cx| {
            if self.flight.poll_interrupted(self.unique, cx) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Takes the request out of those that the worker bounds for its own sake, as long as the result
    /// lives: called before waiting for something that only a client can bring about, such as an
    /// unlock. Otherwise waiters would fill the worker, and the unlock would not be received.
    ///
    /// # Errors
    /// ENOLCK when too many wait already.
    pub fn park(&self) -> Result<Parked> {
        self.parking.take(None).ok_or(Errno::ENOLCK)
    }

    /// As [`Context::park`], before waiting for another machine or process, such as a network filesystem, which may never
    /// answer. `whom` is a number for it: who waits for one of them leaves room for who waits for others.
    ///
    /// # Errors
    /// EIO when too many wait for it already.
    pub fn park_for(&self, whom: u64) -> Result<Parked> {
        self.parking.take(Some(whom)).ok_or(Errno::EIO)
    }
}

#[cfg(feature = "testing")]
impl Context {
    /// A request of nobody, for the test of a part of a filesystem, and what interrupts it. It has
    /// parking of its own, with few places.
    pub fn for_testing(unique: u64) -> (Self, impl Fn() + Clone + Send + 'static) {
        let flight = Arc::<Flight>::default();
        flight.begin(unique, Opcode::SetLkW);
        let context = Self {
            unique,
            opcode: Opcode::SetLkW,
            uid: 0,
            gid: 0,
            pid: 0,
            group: None,
            flight: InFlight(flight.clone()),
            parking: Parking::new(4, 8),
        };
        (context, move || {
            flight.interrupt(unique);
        })
    }
}

/// A request that waits for a client, or for another machine or process; see [`Context::park`] and
/// [`Context::park_for`].
#[must_use]
pub struct Parked {
    parking: Rc<Parking>,
    whom: Option<u64>,
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.parking.give_back(self.whom);
    }
}

/// How many requests of one worker wait outside of those that it bounds for its own sake.
pub(crate) struct Parking {
    for_clients: Cell<usize>,
    for_others: Cell<usize>,
    /// Whom those wait for, and how many each.
    others: RefCell<Vec<(u64, usize)>>,
    for_clients_max: usize,
    for_others_max: usize,
}

impl Parking {
    /// For so many at most.
    pub(crate) fn new(for_clients: usize, for_others: usize) -> Rc<Self> {
        Rc::new(Self {
            for_clients: Cell::new(0),
            for_others: Cell::new(0),
            others: RefCell::default(),
            for_clients_max: for_clients,
            for_others_max: for_others,
        })
    }

    /// How many requests wait.
    pub(crate) fn parked(&self) -> usize {
        self.for_clients.get() + self.for_others.get()
    }

    /// One more, for a client or for `whom`. `None` when that are too many.
    fn take(self: &Rc<Self>, whom: Option<u64>) -> Option<Parked> {
        let (count, max) = match whom {
            None => (&self.for_clients, self.for_clients_max),
            Some(_) => (&self.for_others, self.for_others_max),
        };
        let free = max.saturating_sub(count.get());
        if free == 0 {
            return None;
        }
        if let Some(whom) = whom {
            let mut others = self.others.borrow_mut();
            match others.iter_mut().find(|(other, _)| *other == whom) {
                // Each leaves as much as it has: one that hangs is not the end of the others.
                Some((_, mine)) if *mine >= free => return None,
                Some((_, mine)) => *mine += 1,
                None => others.push((whom, 1)),
            }
        }
        count.set(count.get() + 1);
        Some(Parked { parking: self.clone(), whom })
    }

    fn give_back(&self, whom: Option<u64>) {
        let Some(whom) = whom else {
            return self.for_clients.set(self.for_clients.get() - 1);
        };
        self.for_others.set(self.for_others.get() - 1);
        let mut others = self.others.borrow_mut();
        if let Some(index) = others.iter().position(|(other, _)| *other == whom) {
            others[index].1 -= 1;
            if others[index].1 == 0 {
                others.swap_remove(index);
            }
        }
    }
}

/// The place of one request in flight, as other threads see it.
#[derive(Default)]
pub(crate) struct Flight {
    /// The request, 0 for none: kernels do not number one so.
    unique: AtomicU64,
    /// What it asks for, for people.
    opcode: AtomicU32,
    /// The request that was interrupted last.
    interrupted: AtomicU64,
    /// The client is gone.
    ended: AtomicBool,
    waker: AtomicWaker,
}

/// A request in its place. Dropped, it has left it.
pub(crate) struct InFlight(pub(crate) Arc<Flight>);

impl Deref for InFlight {
    type Target = Flight;

    fn deref(&self) -> &Flight {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Flight {
    pub(crate) fn begin(&self, unique: u64, opcode: Opcode) {
        self.opcode.store(opcode as u32, Ordering::Relaxed);
        // An earlier client may have numbered one alike.
        self.interrupted.store(0, Ordering::Relaxed);
        // Who interrupts it finds the rest as it is now.
        self.unique.store(unique, Ordering::Release);
    }

    pub(crate) fn end(&self) {
        self.unique.store(0, Ordering::Release);
    }

    /// What is in flight here.
    pub(crate) fn request(&self) -> Option<(u64, Opcode)> {
        let unique = self.unique.load(Ordering::Acquire);
        let opcode = Opcode::from_code(self.opcode.load(Ordering::Relaxed))?;
        (unique != 0).then_some((unique, opcode))
    }

    /// Interrupts request `unique` if it is the one here.
    pub(crate) fn interrupt(&self, unique: u64) -> bool {
        let here = unique != 0 && self.unique.load(Ordering::Acquire) == unique;
        if here {
            self.interrupted.store(unique, Ordering::Release);
            self.waker.wake();
        }
        here
    }

    /// Interrupts the request that is here now.
    pub(crate) fn interrupt_current(&self) {
        // Against a request that begins now, which then sees that its client has ended.
        self.interrupt(self.unique.load(Ordering::SeqCst));
    }

    /// Interrupts whatever request is here, now or later.
    pub(crate) fn close(&self) {
        self.ended.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// The same, and if not, wakes the one who asks when it is.
    pub(crate) fn poll_interrupted(&self, unique: u64, cx: &task::Context) -> bool {
        self.waker.register(cx.waker());
        self.is_interrupted(unique)
    }

    /// Whether request `unique`, which is here, was interrupted.
    pub(crate) fn is_interrupted(&self, unique: u64) -> bool {
        let interrupted = self.interrupted.load(Ordering::Acquire);
        (interrupted == unique && unique != 0) || self.ended.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_wait_for_one_leave_room_for_the_next_and_for_clients() {
        let parking = Parking::new(40, 32);
        let fill = |whom| std::iter::from_fn(|| parking.take(whom)).collect::<Vec<_>>();
        let first = fill(Some(1));
        assert_eq!(first.len(), 16);
        let second = fill(Some(2));
        assert_eq!(second.len(), 8);
        assert_eq!(fill(None).len(), 40);
        assert_eq!(parking.parked(), 24);
        drop(first);
        assert_eq!(parking.others.borrow()[..], [(2, 8)]);
        drop(second);
        assert_eq!((parking.parked(), parking.others.borrow().len()), (0, 0));
    }
}
