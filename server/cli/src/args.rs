//! The command line.

use std::{
    ffi::{CString, OsString},
    path::PathBuf,
    time::Duration,
};

use clap::{ArgGroup, CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use fsrv::{Name, NameBuf, virtio_fs::Tag};
use fsrv_passthrough::{CachePolicy, InodeFileHandles};
use fsrv_transport::{fuse_dev::MountOptions, worker};

const EXAMPLE: &str = "\
Example:
  fsrv serve --fuse /mnt --dir /srv/data
          shows /srv/data at /mnt until Ctrl-C or `umount /mnt`
  fsrv serve --vhost-user /run/data.sock --dir /srv/data
          serves it to a virtual machine, which mounts it by `mount -t virtiofs TAG /mnt`
  fsrv serve --fuse disk --image disk.qcow2
          shows the content of disk.qcow2 in the file disk, as a raw disk, for reading";

/// Serve a directory or a disk image to a mount point or a virtual machine.
#[derive(Parser, Debug)]
#[command(name = "fsrv", version, after_help = EXAMPLE)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Serve(Box<Serve>),
}

/// Serve a directory, or a disk image as one raw file, until the mount is removed or a signal comes.
#[derive(clap::Args, Debug)]
#[command(
    after_help = EXAMPLE,
    group = ArgGroup::new("what").args(["dir", "image"]).required(true),
    group = ArgGroup::new("where").args(["fuse", "vhost_user", "fd"]).required(true),
    group = ArgGroup::new("vm").args(["vhost_user", "fd"]),
)]
pub(crate) struct Serve {
    /// The directory to serve
    #[arg(long, value_name = "DIR", help_heading = "What to serve")]
    pub(crate) dir: Option<PathBuf>,

    /// Refuse every change with EROFS
    #[arg(long, conflicts_with = "image", help_heading = "What to serve")]
    pub(crate) readonly: bool,

    /// The disk image to serve: its content, as one raw file
    #[arg(long, value_name = "IMAGE", help_heading = "What to serve")]
    pub(crate) image: Option<PathBuf>,

    /// The format of the image [default, when it is only read: what it looks like]
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        conflicts_with = "dir",
        help_heading = "For an image"
    )]
    pub(crate) format: Option<ImageFormat>,

    /// Let the image be changed
    #[arg(long, requires = "format", conflicts_with = "dir", help_heading = "For an image")]
    pub(crate) writable: bool,

    /// Let writes past its end make it longer
    #[arg(long, requires = "writable", conflicts_with = "dir", help_heading = "For an image")]
    pub(crate) growable: bool,

    /// Whether its data goes through the host's page cache, or past it by O_DIRECT
    #[arg(
        long,
        value_name = "HOW",
        value_enum,
        default_value_t,
        conflicts_with = "dir",
        help_heading = "For an image"
    )]
    pub(crate) host_cache: HostCache,

    /// A directory with backing or data files that the image may refer to; may be given again
    #[arg(long, value_name = "DIR", conflicts_with = "dir", help_heading = "For an image")]
    pub(crate) allow_backing: Vec<PathBuf>,

    /// What a virtual machine calls the file [default: the name of the image]
    #[arg(long, value_name = "NAME", value_parser = file_name, conflicts_with_all = ["dir", "fuse"],
          help_heading = "For an image")]
    pub(crate) name: Option<Box<NameBuf>>,

    /// The mount point to serve it at
    #[arg(long, value_name = "MOUNTPOINT", help_heading = "Where to serve it")]
    pub(crate) fuse: Option<PathBuf>,

    /// The socket to serve a virtual machine at, as a virtio-fs device
    #[arg(long, value_name = "SOCKET", help_heading = "Where to serve it")]
    pub(crate) vhost_user: Option<PathBuf>,

    /// The listening socket, inherited under this number, to serve one virtual machine at
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..),
          help_heading = "Where to serve it")]
    pub(crate) fd: Option<i32>,

    /// Let other users in: `auto` does so as root
    #[arg(
        long,
        value_name = "WHO",
        value_enum,
        default_value_t,
        conflicts_with = "vm",
        help_heading = "Where to serve it"
    )]
    pub(crate) allow_other: AllowOther,

    /// Options of the mount itself, as mount(8) has them: nosuid, nodev, noexec, noatime, ..
    #[arg(
        short = 'o',
        long = "mount-options",
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = mount_option,
        conflicts_with = "vm",
        help_heading = "Where to serve it"
    )]
    pub(crate) mount_options: Vec<String>,

    /// The name by which a guest mounts it, where the virtual machine does not give one
    #[arg(long, value_name = "TAG", value_parser = tag, default_value = "fsrv", conflicts_with = "fuse",
          help_heading = "For a virtual machine")]
    pub(crate) tag: Tag,

    /// Request queues, where the virtual machine does not say [default: one for each CPU, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=QUEUES_MAX),
          conflicts_with = "fuse", help_heading = "For a virtual machine")]
    pub(crate) queues: Option<u16>,

    /// Look for the next message for so many microseconds before sleeping, while that pays
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=POLL_US_MAX),
          default_value_t = 0, conflicts_with = "fuse", help_heading = "For a virtual machine")]
    pub(crate) poll_us: u64,

    /// Let this group use the socket too
    #[arg(long, value_name = "GROUP", requires = "vhost_user", conflicts_with_all = ["fuse", "fd"],
          help_heading = "For a virtual machine")]
    pub(crate) socket_group: Option<String>,

    /// End when the first virtual machine has left
    #[arg(long, requires = "vhost_user", conflicts_with_all = ["fuse", "fd"],
          help_heading = "For a virtual machine")]
    pub(crate) once: bool,

    /// How much the client may keep: names and attributes for 1 s (`auto`) or 24 h (`metadata`, and
    /// with data `always`), or nothing (`never`)
    #[arg(
        long,
        value_name = "POLICY",
        value_enum,
        default_value_t,
        conflicts_with = "image",
        help_heading = "Caching"
    )]
    pub(crate) cache: Cache,

    /// How long attributes hold
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true,
          conflicts_with = "image", help_heading = "Caching")]
    pub(crate) attr_timeout: Option<Duration>,

    /// How long names hold
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true,
          conflicts_with = "image", help_heading = "Caching")]
    pub(crate) entry_timeout: Option<Duration>,

    /// How long it holds that a name does not exist
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true,
          conflicts_with = "image", help_heading = "Caching")]
    pub(crate) negative_timeout: Option<Duration>,

    /// Let the client gather writes; for a directory that nobody else changes
    #[arg(long, conflicts_with_all = ["readonly", "image"], help_heading = "Caching")]
    pub(crate) writeback: bool,

    /// Let O_DIRECT reach the host's files
    #[arg(long, conflicts_with = "image", help_heading = "Caching")]
    pub(crate) allow_direct_io: bool,

    /// Hold known files by file handle instead of by descriptor
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value_t,
        conflicts_with = "image",
        help_heading = "Resources"
    )]
    pub(crate) inode_file_handles: Handles,

    /// Threads that serve, each on a CPU of its own [default: one for each CPU, at most 8]
    #[arg(long, value_name = "N", value_parser = workers, help_heading = "Resources")]
    pub(crate) workers: Option<usize>,

    /// How file I/O is done that has to wait
    #[arg(long, value_name = "ENGINE", value_enum, default_value_t, help_heading = "Resources")]
    pub(crate) io_engine: IoEngine,

    /// The most open descriptors [default: as many as this process may have]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(64..),
          help_heading = "Resources")]
    pub(crate) rlimit_nofile: Option<u64>,

    /// The least important messages to log
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t, help_heading = "Logging")]
    pub(crate) log_level: LogLevel,

    /// How they are written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Logging")]
    pub(crate) log_format: LogFormat,

    /// Say on standard output when the mount is there, then leave standard output and error alone
    #[arg(long, hide = true, conflicts_with = "vm")]
    pub(crate) background: bool,
}

/// The most request queues that may be asked for: more than any machine has CPUs for.
const QUEUES_MAX: i64 = 64;

/// The longest that a worker may look for messages in vain: a second.
const POLL_US_MAX: u64 = 1_000_000;

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum AllowOther {
    #[default]
    Auto,
    On,
    Off,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ImageFormat {
    /// The file is the content
    Raw,
    /// QEMU's format, versions 2 and 3
    Qcow2,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum HostCache {
    /// Through the page cache
    #[default]
    Buffered,
    /// Past it
    Direct,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Cache {
    #[default]
    Auto,
    Metadata,
    Always,
    Never,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Handles {
    Never,
    #[default]
    Prefer,
    Mandatory,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum IoEngine {
    #[default]
    Auto,
    Uring,
    Threads,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Cli {
    /// # Errors
    /// What is wrong with `words`, or the help that they ask for.
    pub(crate) fn parse(words: Vec<OsString>) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(words)?;
        let Command::Serve(serve) = &cli.command;
        if serve.writeback && serve.cache == Cache::Never {
            let message = "--writeback cannot be used with --cache never: the client has nowhere \
                           to gather writes";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        }
        Ok(cli)
    }
}

impl Cache {
    pub(crate) fn policy(self) -> CachePolicy {
        match self {
            Self::Auto => CachePolicy::Auto,
            Self::Metadata => CachePolicy::Metadata,
            Self::Always => CachePolicy::Always,
            Self::Never => CachePolicy::Never,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Metadata => "metadata",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

impl Handles {
    pub(crate) fn choice(self) -> InodeFileHandles {
        match self {
            Self::Never => InodeFileHandles::Never,
            Self::Prefer => InodeFileHandles::Prefer,
            Self::Mandatory => InodeFileHandles::Mandatory,
        }
    }
}

fn tag(text: &str) -> Result<Tag, String> {
    Tag::new(text).map_err(|error| error.to_string())
}

fn file_name(text: &str) -> Result<Box<NameBuf>, String> {
    let no_name = || "it is no name of a file".to_owned();
    let text = CString::new(text).map_err(|_| no_name())?;
    Name::new(&text).map(|name| Box::new(name.to_buf())).map_err(|_| no_name())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn workers(text: &str) -> Result<usize, String> {
    let cpus = worker::cpus().map_err(|error| error.to_string())?.len();
    match text.parse() {
        Ok(workers) if (1..=cpus).contains(&workers) => Ok(workers),
        _ => Err(format!("it is 1 to {cpus}, the CPUs that this process may use")),
    }
}

fn mount_option(word: &str) -> Result<String, String> {
    if MountOptions::new("").set(word) {
        Ok(word.to_owned())
    } else {
        Err("no option of a mount".to_owned())
    }
}

#[cfg(test)]
mod tests;
