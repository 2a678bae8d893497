//! What workers share once more, made of what loom watches: its tests run in every order that their threads may run
//! in, with every value that the memory model lets them read.
#![expect(dead_code, reason = "only what is shared is tested here")]
#![expect(clippy::duplicate_mod, reason = "the same code, made of other parts")]

mod sync {
    use std::{
        hash::{BuildHasher, DefaultHasher},
        sync::PoisonError,
    };

    pub(crate) use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    };

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is the same each time: orders are told apart by what happened before.
    pub(crate) struct RandomState;

    impl RandomState {
        pub(crate) fn new() -> Self {
            Self
        }
    }

    impl BuildHasher for RandomState {
        type Hasher = DefaultHasher;

        fn build_hasher(&self) -> DefaultHasher {
            DefaultHasher::new()
        }
    }

    pub(crate) mod check {
        pub(crate) use loom::thread;

        /// How often a thread is stopped where it need not wait. Faults that need more are rare, and orders many.
        const INTERRUPTIONS: usize = 3;

        pub(crate) fn orders(test: impl Fn() + Send + Sync + 'static) {
            let mut builder = loom::model::Builder::new();
            builder.preemption_bound = Some(INTERRUPTIONS);
            builder.check(test);
        }
    }
}

#[path = "inode.rs"]
mod inode;
