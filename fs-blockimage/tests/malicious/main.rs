//! Images that are cut off, damaged, or made by an attacker: each is refused with a sentence, or served without harm.
//!
//! [`image`], [`script`] and [`input`] are those of the fuzz target, too.

mod chain;
mod compressed;
mod header;
mod image;
mod input;
mod kept;
mod lab;
mod memory;
mod random;
mod raw;
mod script;
mod tables;
