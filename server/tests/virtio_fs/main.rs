//! The virtio-fs device inside a virtual machine monitor: a filesystem in memory, and a driver that does what a
//! guest's does.

mod activating;
mod driver;
mod enabling;
mod gated;
mod leaving;
mod memory;
mod monitor;
mod pausing;
mod process;
mod queues;
