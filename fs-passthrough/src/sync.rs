//! What workers share is made of: std's, where `model` has what a model checker watches.

pub(crate) use std::{
    hash::RandomState,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

pub(crate) use crate::mutex::lock;

#[cfg(test)]
pub(crate) mod check {
    //! What a test needs to run here and in `model`.

    pub(crate) use std::thread;

    /// Runs `test` once; in `model`, in every order that its threads may run in.
    pub(crate) fn orders(test: impl Fn() + Send + Sync + 'static) {
        test();
    }
}
