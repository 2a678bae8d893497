//! A disk image as one file: what programs see of it, compared with QEMU's own export wherever that says what is right.

mod attributes;
mod backing;
mod clients;
mod data;
mod export;
mod formats;
mod host;
mod hung;
mod lifetime;
mod locks;
mod machine;
mod mount_point;
mod options;
mod qcow2;
mod ranges;
mod setattr;
