//! What is left of an image when the power fails, or its host does.
//!
//! A run is recorded once ([`recorder`]), and cut at many points ([`remains`]); what is left is compared with what was
//! acknowledged ([`model`]).

mod cuts;
mod faults;
mod model;
mod qcow2;
mod qemu_img;
mod raw;
mod recorder;
mod remains;
mod seed;
mod workload;
