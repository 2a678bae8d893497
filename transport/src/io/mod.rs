//! File operations as owned futures, behind one module with two engines.
//!
//! With [`Engine::Uring`] what cannot be answered at once goes to the worker's io_uring, with
//! [`Engine::Threads`] to the worker's pool of threads. Buffers are moved in and come back with
//! the result. A thread that is no fsrv worker has the engine `Threads` and a pool of its own, made when it is first
//! needed, so that these functions work in every program.
#![expect(unsafe_code, reason = "addresses of owned buffers are handed to the kernel")]

mod closer;
mod cost;
mod data;
mod engine;
mod file;
mod host;
mod leave;
mod park;
mod pool;
mod ring;
pub(crate) mod size_limit;
mod start;
mod sys;
mod threads;

pub use closer::{Closed, Closer, LONG_TO_FREE, aside, is_no_room};
pub use cost::Cost;
pub use data::{WriteAt, preadv2, pwritev2, pwritev2_within, read_part, write_part};
pub use engine::{Counters, Engine, counters};
pub use file::{File, SyncKind, fallocate, fsync};
pub use host::{HostMount, close_remote};
pub use leave::exit;
pub use park::Parker;
pub use pool::{on_pool, run};
pub use start::{name_limits, start_thread};
pub use sys::owns_umask;
pub use threads::Pool;

pub(crate) use engine::enter;
pub(crate) use park::offer_again;
pub(crate) use ring::ENTRIES as RING_ENTRIES;
pub(crate) use sys::own_umask;
