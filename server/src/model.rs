//! What workers share once more, made of what loom watches: its tests run in every order that their threads may run
//! in, with every value that the memory model lets them read.
#![expect(dead_code, unreachable_pub, reason = "only what is shared is tested here")]
#![expect(clippy::duplicate_mod, reason = "the same code, made of other parts")]

mod sync {
    pub(crate) use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
    };

    /// loom's, as `futures` has it.
    pub(crate) struct AtomicWaker(loom::future::AtomicWaker);

    impl Default for AtomicWaker {
        fn default() -> Self {
            Self(loom::future::AtomicWaker::new())
        }
    }

    impl AtomicWaker {
        pub(crate) fn register(&self, waker: &std::task::Waker) {
            self.0.register_by_ref(waker);
        }

        pub(crate) fn wake(&self) {
            self.0.wake();
        }
    }

    pub(crate) mod check {
        pub(crate) use loom::{future::block_on, thread};

        /// How often a thread is stopped where it need not wait. Faults that need more are rare, and orders many.
        const INTERRUPTIONS: usize = 2;

        pub(crate) fn orders(test: impl Fn() + Send + Sync + 'static) {
            let mut builder = loom::model::Builder::new();
            builder.preemption_bound = Some(INTERRUPTIONS);
            builder.check(test);
        }
    }
}

#[path = "context.rs"]
mod context;
#[path = "session/early.rs"]
mod early;
#[path = "slots.rs"]
mod slots;

use context::Flight;

fn lock<T>(mutex: &sync::Mutex<T>) -> sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
