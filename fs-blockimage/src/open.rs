//! What to open, and how.

use std::{fmt, path::PathBuf};

/// How the content of an image is laid out in its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// The file is the content.
    Raw,
    /// QEMU's format, of version 2 or 3.
    Qcow2,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

/// What to open, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The image.
    pub path: PathBuf,
    /// Its format; `None` to look, which is allowed only for reading: what a client writes to a raw image could look
    /// like another format.
    pub format: Option<Format>,
    /// Whether it is to be changed.
    pub writable: bool,
    /// Whether data goes past the host's page cache, by O_DIRECT.
    pub direct: bool,
    /// Directories in which backing and data files may lie. Those that an image names elsewhere are refused.
    pub allow_backing: Vec<PathBuf>,
}
