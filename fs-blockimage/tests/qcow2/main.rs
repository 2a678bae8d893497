//! qcow2 images that `qemu-img` makes and checks.

mod features;
mod lab;
mod open;
mod read;
mod write;
