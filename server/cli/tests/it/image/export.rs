//! An image, and its export by fsrv or by QEMU.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::io::Errno;
use tempfile::TempDir;

use crate::mount::Mount;
use crate::served::{FSRV, directory};

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;

/// The command line was wrong.
pub(super) const USAGE: i32 = 2;
/// The command line was right, and what it asked for did not work.
pub(super) const FAILURE: i32 = 1;

/// How long a server that refuses may take.
const REFUSAL_LIMIT: [&str; 2] = ["--kill-after=2", "10"];

/// How long something may take that happens at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Both engines.
const CORNERS: [&[&str]; 2] = [&["--io-engine", "uring"], &["--io-engine", "threads"]];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Raw,
    Qcow2,
}

pub(super) const FORMATS: [Format; 2] = [Format::Raw, Format::Qcow2];

/// An image called `image`, beside an empty file called `point`.
#[derive(Debug)]
pub(super) struct Image {
    format: Format,
    place: TempDir,
}

/// A file which is the content of an image. It is gone when the value is dropped.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) mount: Mount,
    file: PathBuf,
}

/// What became of a command that ended by itself.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) said: String,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl Image {
    /// One that reads as `size` zeroes.
    pub(super) fn new(format: Format, size: u64) -> Self {
        Self::with(format, size, &[])
    }

    /// The same, with more arguments for `qemu-img create`.
    pub(super) fn with(format: Format, size: u64, more: &[&str]) -> Self {
        let image = Self::nothing(format);
        image.make(size, more);
        image
    }

    /// Makes the image, and the file to serve it at.
    pub(super) fn make(&self, size: u64, more: &[&str]) {
        fs::write(self.point(), "").expect("a mount point");
        if more.is_empty() && self.format == Format::Raw {
            // qemu-img would give it a first block.
            File::create(self.path()).and_then(|file| file.set_len(size)).expect("an image");
            return;
        }
        let create = ["create", "-q", "-f", self.format.name()];
        let mut command = Command::new("qemu-img");
        command.args(create).args(more).arg(self.path()).arg(size.to_string());
        succeeds(&mut command);
    }

    /// A file that has these bytes.
    pub(super) fn of(format: Format, content: &[u8]) -> Self {
        let image = Self::nothing(format);
        fs::write(image.point(), "").expect("a mount point");
        fs::write(image.path(), content).expect("an image");
        image
    }

    /// A place for an image.
    pub(super) fn nothing(format: Format) -> Self {
        Self { format, place: directory() }
    }

    pub(super) fn directory(&self) -> &Path {
        self.place.path()
    }

    pub(super) fn path(&self) -> PathBuf {
        self.at("image")
    }

    /// Where it is served if nothing else is said.
    pub(super) fn point(&self) -> PathBuf {
        self.at("point")
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Fills a part of the content.
    pub(super) fn fill(&self, at: u64, len: u64, byte: u8) {
        self.io(&[], &format!("write -P {byte} {at} {len}"));
    }

    /// The content has `byte` at all of a range, as QEMU sees it.
    pub(super) fn is_filled(&self, at: u64, len: u64, byte: u8) {
        let printed = self.io(&["-r"], &format!("read -P {byte} {at} {len}"));
        assert!(!printed.contains("verification failed"), "{printed}");
    }

    /// `qemu-io`, which must succeed. Returns what it printed.
    pub(super) fn io(&self, args: &[&str], order: &str) -> String {
        let mut command = Command::new("qemu-io");
        command.args(["-f", self.format.name(), "-c", order]).args(args).arg(self.path());
        succeeds(&mut command)
    }

    /// `qemu-img` has nothing to say against it.
    pub(super) fn is_consistent(&self) {
        if self.format == Format::Qcow2 {
            succeeds(Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(self.path()));
        }
    }

    /// What `qemu-img check` says; it finds nothing in a raw image.
    pub(super) fn check(&self) -> Ended {
        match self.format {
            Format::Raw => Ended { code: Some(0), said: String::new() },
            Format::Qcow2 => {
                ended(Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(self.path()))
            }
        }
    }

    /// Whether it is writable, or of what format it is: what must be said to serve it.
    pub(super) fn format_args(&self) -> [&'static str; 2] {
        ["--format", self.format.name()]
    }

    /// Served by fsrv.
    pub(super) fn serve(&self, args: &[&str]) -> Export {
        self.serve_at(&self.point(), args).unwrap_or_else(|error| panic!("{error:#}"))
    }

    pub(super) fn serve_at(&self, file: &Path, args: &[&str]) -> Result<Export> {
        let mount = Mount::start(file, |command, file| {
            command.arg(FSRV).args(["serve", "--fuse"]).arg(file).arg("--image").arg(self.path());
            command.args(self.format_args()).args(args)
        })?;
        Ok(Export { mount, file: file.to_owned() })
    }

    /// Served by QEMU, with the same arguments.
    pub(super) fn serve_by_qemu(&self, args: &[&str]) -> Export {
        let file = self.point();
        let node = format!("{},node-name=image,file=file", self.format.name());
        let choices = Choices::of(args);
        let image =
            format!("file,node-name=file,filename={}{}", self.path().display(), choices.of_file());
        let export = format!(
            "fuse,id=export,node-name=image,mountpoint={}{}",
            file.display(),
            choices.of_export()
        );
        let mount = Mount::start(&file, |command, _| {
            command.arg("qemu-storage-daemon").args(["--blockdev", &image]);
            command.args(["--blockdev", &(node + choices.of_node())]).args(["--export", &export])
        });
        Export { mount: mount.unwrap_or_else(|error| panic!("{error:#}")), file }
    }

    /// fsrv does not serve it, and says why in one line.
    pub(super) fn is_refused(&self, args: &[&str]) -> Ended {
        refused(|command| {
            command.arg("--fuse").arg(self.point()).arg("--image").arg(self.path()).args(args)
        })
    }
}

/// What fsrv's arguments are for QEMU.
struct Choices<'a> {
    is_writable: bool,
    is_growable: bool,
    is_direct: bool,
    allow_other: Option<&'a str>,
}

impl<'a> Choices<'a> {
    fn of(args: &[&'a str]) -> Self {
        let after = |option| args.iter().position(|&arg| arg == option).map(|at| args[at + 1]);
        Self {
            is_writable: args.contains(&"--writable"),
            is_growable: args.contains(&"--growable"),
            is_direct: after("--host-cache") == Some("direct"),
            allow_other: after("--allow-other"),
        }
    }

    fn of_file(&self) -> String {
        let cache = if self.is_direct { ",cache.direct=on" } else { "" };
        format!("{cache}{}", self.of_node())
    }

    fn of_node(&self) -> &'static str {
        if self.is_writable { ",discard=unmap" } else { ",read-only=on" }
    }

    fn of_export(&self) -> String {
        let writable = if self.is_writable { ",writable=on" } else { "" };
        let growable = if self.is_growable { ",growable=on" } else { "" };
        let other = self.allow_other.map(|who| format!(",allow-other={who}")).unwrap_or_default();
        format!("{writable}{growable}{other}")
    }
}

impl Export {
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn open(&self) -> File {
        File::options().read(true).write(true).open(&self.file).expect("a served image")
    }

    pub(super) fn stop(self) {
        self.mount.stop().unwrap_or_else(|error| panic!("{error:#}"));
    }
}

/// Serves an image that `make` makes, by QEMU and then by fsrv: `act` must see the same. Returns what it saw.
pub(super) fn as_qemu<S: PartialEq + Debug>(
    make: impl Fn() -> Image,
    args: &[&str],
    act: impl Fn(&Path) -> S,
) -> S {
    let image = make();
    let export = image.serve_by_qemu(args);
    let expected = act(export.file());
    export.stop();
    for corner in CORNERS {
        let image = make();
        let export = image.serve(&[corner, args].concat());
        let seen = act(export.file());
        assert_eq!(seen, expected, "by fsrv (left) with {corner:?} and by QEMU (right)");
        export.stop();
        image.is_consistent();
    }
    expected
}

/// Starts `fsrv serve` with what `more` adds; it must end soon, with one line that says why.
pub(super) fn refused(more: impl FnOnce(&mut Command) -> &mut Command) -> Ended {
    let mut command = Command::new("timeout");
    command.args(REFUSAL_LIMIT).arg(FSRV).arg("serve");
    let ended = Ended::of(more(&mut command).output().expect("timeout runs"));
    assert_eq!(ended.said.trim_end().lines().count(), 1, "not one line: {}", ended.said);
    ended
}

impl Ended {
    fn of(output: Output) -> Self {
        let said = [output.stdout, output.stderr].concat();
        Self { code: output.status.code(), said: String::from_utf8_lossy(&said).into_owned() }
    }

    /// It ended with this code and said all of this.
    pub(super) fn says(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.said);
        for word in words {
            assert!(self.said.contains(word), "no {word:?} in {}", self.said);
        }
    }
}

/// Runs a command, and returns what it said.
pub(super) fn ended(command: &mut Command) -> Ended {
    Ended::of(command.output().unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

/// Runs a command that must succeed, and returns what it said.
pub(super) fn succeeds(command: &mut Command) -> String {
    let ended = ended(command);
    assert_eq!(ended.code, Some(0), "{command:?}: {}", ended.said);
    ended.said
}

pub(super) fn qemu_img<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> String {
    succeeds(Command::new("qemu-img").args(args))
}

/// With the error as its number.
pub(super) fn seen<T>(outcome: io::Result<T>) -> Result<T, Errno> {
    outcome.map_err(|error| Errno::from_io_error(&error).expect("an error of the system"))
}

/// Waits until it is so.
pub(super) fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not after {PATIENCE:?}");
        sleep(Duration::from_millis(5));
    }
}
