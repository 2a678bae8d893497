//! The real binary as a virtio-fs device, for a front-end that behaves and for one that does not.
//!
//! `FSRV_TEST_BINARY` names another binary to test, such as one with a sanitizer.

mod chains;
mod device;
mod dirty;
mod hung;
mod leaving;
mod locks;
mod memory;
mod messages;
mod no_threads;
mod profile;
mod queues;
mod starting;
mod stuck;
mod suid;
