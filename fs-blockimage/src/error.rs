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
    /// What is in the file is not what it should be, or is not supported.
    #[error("cannot open {path} as {format}: {why}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it was taken for.
        format: &'static str,
        /// Why, and the way out.
        why: String,
    },
    /// An image refers to a file that the user did not allow.
    #[error(
        "cannot open {image}: it refers to the {what} '{name}', which is outside of what is allowed; \
         allow its directory with --allow-backing {directory}"
    )]
    NotAllowed {
        /// The image.
        image: PathBuf,
        /// What the file is for it.
        what: &'static str,
        /// The file, as the image names it.
        name: String,
        /// Where it is.
        directory: PathBuf,
    },
    /// An image refers to something in a way that is not followed.
    #[error("cannot open {image}: it refers to the {what} '{name}', {why}")]
    Reference {
        /// The image.
        image: PathBuf,
        /// What the file is for it.
        what: &'static str,
        /// The file, as the image names it.
        name: String,
        /// Why it is not followed, and the way out.
        why: String,
    },
    /// A file that an image refers to cannot be opened.
    #[error("cannot open the {what} of {image}: {cause}")]
    Referred {
        /// The image.
        image: PathBuf,
        /// What the file is for it.
        what: &'static str,
        /// Why.
        cause: Box<OpenError>,
    },
    /// What is to be written needs a format that somebody has said.
    #[error(
        "cannot open {path}: say its format with --format, for what a client writes to a raw image could look like \
         another format"
    )]
    FormatRequired {
        /// The image.
        path: PathBuf,
    },
}
