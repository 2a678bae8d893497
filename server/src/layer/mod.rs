//! Layers: a filesystem around another one.

mod read_only;

pub use read_only::ReadOnly;
