//! Why an image cannot be opened.

use std::{
    fmt::Display,
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why an image cannot be opened. Each message is one line with the way out.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The host refused to open a file.
    #[error("cannot open {}: {cause}", shown(path))]
    Open {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error(
        "cannot open {}: it is {what}, and an image is a regular file or a block device",
        shown(path)
    )]
    NotAnImage {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Somebody else uses the image in a way that does not go together with this one.
    #[error(
        "cannot open {}: another process {how} (a virtual machine, or another export); end that first",
        shown(path)
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// What the other one does.
        how: &'static str,
    },
    /// It could not be made sure that nobody else uses the image.
    #[error(
        "cannot lock {}: {cause}; put it on a filesystem with open-file-description locks",
        shown(path)
    )]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// What is in the file is not what it should be, or is not supported.
    #[error("cannot open {} as {format}: {why}", shown(path))]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it was taken for.
        format: &'static str,
        /// Why, and the way out.
        why: String,
    },
    /// What is in the file is an image of another format.
    #[error(
        "cannot open {}: it looks like {format}, which is not supported; convert it with `qemu-img convert -f {format} -O qcow2`, \
         or serve its bytes with --format raw",
        shown(path)
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The format, as `qemu-img` names it.
        format: &'static str,
    },
    /// An image refers to a file that the user did not allow.
    #[error(
        "cannot open {}: it refers to the {what} '{}', which is outside of what is allowed; \
         allow its directory with --allow-backing {}",
        shown(image),
        printable(name),
        shown(directory)
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
    #[error(
        "cannot open {}: it refers to the {what} '{}', {}",
        shown(image),
        printable(name),
        printable(why)
    )]
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
    #[error("cannot open the {what} of {}: {cause}", shown(image))]
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
        "cannot open {}: say its format with --format, for what a client writes to a raw image could look like \
         another format",
        shown(path)
    )]
    FormatRequired {
        /// The image.
        path: PathBuf,
    },
}

fn shown(path: &Path) -> String {
    printable(path.display())
}

/// Names come from images: what a terminal would obey, or write in another direction, is written as its number.
fn printable(text: impl Display) -> String {
    let shown = |c: char| {
        // `escape_debug` knows what is not printable; quotes and backslashes are.
        if c.is_ascii_graphic() || c == ' ' { c.to_string() } else { c.escape_debug().to_string() }
    };
    text.to_string().chars().map(shown).collect()
}
