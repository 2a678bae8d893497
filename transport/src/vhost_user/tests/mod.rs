//! Front-ends, well-behaved and not.

mod client;
mod device;
mod hostile;
mod listener;
mod log;
mod memory;
mod negotiating;
mod rings;
