//! Operations: decoded once from the wire into types, and answered by types.

mod args;
mod decode;
mod dir;
mod effect;
mod reply;
mod request;
mod table;

pub use dir::{DirBuf, DirPlusBuf};
pub use reply::{Events, Ioctled, Mapped, Xattr};
pub use request::*;
pub use table::{Boxed, DynFileSystem, Opcode, Operation};

pub(crate) use args::{Args, Extensions, Fixed};
pub(crate) use reply::{Answer, Encode, Grant};
pub(crate) use table::each_operation;
