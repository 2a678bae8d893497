//! What a user chooses.

use std::time::Duration;

use fsrv::Attr;

use crate::suid::has_suid;

/// How much the client may keep, and for how long. docs/semantics.md has the table.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum CachePolicy {
    /// Names and attributes for 1 s; data until the file is opened again and has changed.
    #[default]
    Auto,
    /// Names and attributes for 24 h; no data.
    Metadata,
    /// Everything for 24 h: for a directory that nobody else changes.
    Always,
    /// Nothing: every client sees at once what others do.
    Never,
}

/// How files that the client knows are held.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum InodeFileHandles {
    /// By an open descriptor each.
    Never,
    /// By a file handle where filesystem and capabilities allow it, else by a descriptor.
    #[default]
    Prefer,
    /// By a file handle, or the server does not start.
    Mandatory,
}

/// How a directory is served.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the client may keep.
    pub cache: CachePolicy,
    /// How long the client may believe attributes, if not as the policy says.
    pub attr_timeout: Option<Duration>,
    /// How long the client may believe names, if not as the policy says.
    pub entry_timeout: Option<Duration>,
    /// How long the client may believe that a name does not exist, if not as the policy says.
    pub negative_timeout: Option<Duration>,
    /// The client gathers writes. For one client only: size and mtime are its own.
    pub writeback: bool,
    /// O_DIRECT of the client reaches the host's file.
    pub allow_direct_io: bool,
    /// How known files are held.
    pub inode_file_handles: InodeFileHandles,
    /// The most descriptors for what clients do: RLIMIT_NOFILE, less what the process takes for all else.
    pub max_descriptors: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache: CachePolicy::default(),
            attr_timeout: None,
            entry_timeout: None,
            negative_timeout: None,
            writeback: false,
            allow_direct_io: false,
            inode_file_handles: InodeFileHandles::default(),
            max_descriptors: 1024,
        }
    }
}

impl CachePolicy {
    /// How long names and attributes hold.
    fn timeout(self) -> Duration {
        match self {
            Self::Never => Duration::ZERO,
            Self::Auto => Duration::from_secs(1),
            Self::Metadata | Self::Always => Duration::from_hours(24),
        }
    }

    /// How long it holds that a name does not exist.
    fn negative_timeout(self) -> Duration {
        match self {
            // What another client has just created must be found.
            Self::Never | Self::Auto => Duration::ZERO,
            Self::Metadata | Self::Always => self.timeout(),
        }
    }
}

/// How long the client may believe what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    attr: Duration,
    pub(crate) entry: Duration,
    pub(crate) negative: Duration,
}

impl Timeouts {
    /// How long the client may believe `attr`.
    ///
    /// A change of a file takes suid and sgid away on the host, and the client gets no word of it
    /// (HANDLE_KILLPRIV_V2): it must ask before each use of them.
    pub(crate) fn of(&self, attr: &Attr) -> Duration {
        if has_suid(attr) { Duration::ZERO } else { self.attr }
    }
}

impl Config {
    pub(crate) fn timeouts(&self) -> Timeouts {
        Timeouts {
            attr: self.attr_timeout.unwrap_or(self.cache.timeout()),
            entry: self.entry_timeout.unwrap_or(self.cache.timeout()),
            negative: self.negative_timeout.unwrap_or(self.cache.negative_timeout()),
        }
    }
}
