//! Which engines tests run on.

use std::env;

use crate::{io::Engine, worker::probe_ring};

/// Set where io_uring is refused and cannot be allowed: tests then run with threads alone.
const WITHOUT_URING: &str = "FSRV_TEST_WITHOUT_URING";

/// Both engines: what a test of file I/O runs on.
///
/// # Panics
/// When io_uring is refused, unless `FSRV_TEST_WITHOUT_URING` says that it is meant to be: tests that
/// leave an engine out by themselves show nothing of it, and nobody sees that.
pub fn engines() -> Vec<Engine> {
    if env::var_os(WITHOUT_URING).is_some() {
        return vec![Engine::Threads];
    }
    if let Err(error) = probe_ring() {
        panic!("no io_uring here: {error}; allow it, or set {WITHOUT_URING} to test without it");
    }
    vec![Engine::Threads, Engine::Uring]
}

/// Runs `test` with io_uring, where [`engines`] has it.
pub fn with_uring(test: impl FnOnce()) {
    if engines().contains(&Engine::Uring) {
        test();
    }
}
