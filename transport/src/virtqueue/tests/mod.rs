//! A guest's driver in memory of this process, and what a queue makes of its messages.

mod driver;
mod ending;
mod malformed;
mod memory;
mod messages;
mod notifying;
mod walk;
