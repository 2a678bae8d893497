//! What workers share is made of: std's, where `model` has what a model checker watches.

pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
};

pub(crate) use futures::task::AtomicWaker;

#[cfg(test)]
pub(crate) mod check {
    //! What a test needs to run here and in `model`.

    pub(crate) use std::thread;

    /// Runs `future` to its end on this thread.
    pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    /// Runs `test` once; in `model`, in every order that its threads may run in.
    pub(crate) fn orders(test: impl Fn() + Send + Sync + 'static) {
        test();
    }
}
