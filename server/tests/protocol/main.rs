//! The protocol, byte by byte.

mod arbitrary;
mod begin;
mod hostile;
mod panics;
mod read_only;
mod replies;
mod sample;
mod waiting;
mod wire;
