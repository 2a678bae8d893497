//! Why an image cannot be opened.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why an image cannot be opened. Each message is one line with the way out.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The host refused to open a file.
    #[error("cannot open {path}: {cause}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("cannot open {path}: it is {what}, and an image is a regular file or a block device")]
    NotAnImage {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Somebody else uses the image in a way that does not go together with this one.
    #[error(
        "cannot open {path}: another process {how} (a virtual machine, or another export); end that first"
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// What the other one does.
        how: &'static str,
    },
    /// It could not be made sure that nobody else uses the image.
    #[error("cannot lock {path}: {cause}; put it on a filesystem with open-file-description locks")]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
}
