//! What a request knows of its caller, and whether the caller still waits.

use std::{
    cell::Cell,
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
        let parking = &self.parking;
        if parking.parked.get() >= parking.limit {
            return Err(Errno::ENOLCK);
        }
        parking.parked.set(parking.parked.get() + 1);
        Ok(Parked(parking.clone()))
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
            parking: Rc::new(Parking { parked: Cell::new(0), limit: 4 }),
        };
        (context, move || {
            flight.interrupt(unique);
        })
    }
}

/// A request that waits for a client; see [`Context::park`].
#[must_use]
pub struct Parked(Rc<Parking>);

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.parked.set(self.0.parked.get() - 1);
    }
}

/// How many requests of one worker wait for a client.
pub(crate) struct Parking {
    pub(crate) parked: Cell<usize>,
    pub(crate) limit: usize,
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
