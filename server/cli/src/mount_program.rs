//! Run as `mount.fuse.fsrv`, as mount(8) runs it for a line of fstab:
//! `mount.fuse.fsrv SOURCE TARGET [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]`.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{Read, Write, pipe},
    os::unix::process::CommandExt,
    path::Path,
    process::{self, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use clap::CommandFactory;
use fsrv_transport::fuse_dev::MountOptions;

use crate::{args::Cli, report};

/// Exit codes of mount(8).
const USAGE: u8 = 1;
const FAILURE: u8 = 32;

const NAMES: [&str; 2] = ["mount.fuse.fsrv", "mount.fsrv"];

/// Options of a line that are for mount(8), systemd and the like.
const FOR_OTHERS: [&str; 12] = [
    "defaults", "auto", "noauto", "user", "nouser", "users", "nousers", "owner", "group", "nofail",
    "_netdev", "rw",
];

/// Options of `fsrv serve` that a line gives in another way.
const NOT_IN_A_LINE: [&str; 14] = [
    "dir",
    "image",
    "name",
    "fuse",
    "vhost-user",
    "fd",
    "tag",
    "queues",
    "poll-us",
    "socket-group",
    "once",
    "mount-options",
    "background",
    "help",
];

/// The name that this program was called by, if it is one of a mount program.
pub(crate) fn name(words: &[OsString]) -> Option<String> {
    let name = Path::new(words.first()?).file_name()?.to_str()?;
    NAMES.contains(&name).then(|| name.to_owned())
}

/// Returns when the mount is there, and leaves a server behind.
pub(crate) fn main(name: &str, words: &[OsString]) -> ExitCode {
    let line = match Line::parse(words) {
        Ok(line) => line,
        Err(error) => {
            report::failure(name, &error);
            return ExitCode::from(USAGE);
        }
    };
    if line.fake {
        return ExitCode::SUCCESS;
    }
    match start_server(&line.serve) {
        Ok(true) => ExitCode::SUCCESS,
        // The server has said why.
        Ok(false) => ExitCode::from(FAILURE),
        Err(error) => {
            report::failure(name, &error);
            ExitCode::from(FAILURE)
        }
    }
}

/// What a line asks for.
#[derive(PartialEq, Eq, Debug)]
struct Line {
    /// The command line of `fsrv`.
    serve: Vec<OsString>,
    /// Do everything but mount.
    fake: bool,
}

impl Line {
    fn parse(words: &[OsString]) -> Result<Self> {
        let (mut paths, mut options, mut fake) = (Vec::new(), Options::default(), false);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.to_str() {
                Some("-o") => {
                    let list = words.next().context("-o needs a list of options")?;
                    options.take(list.to_str().context("an option is not UTF-8")?)?;
                }
                Some("-t" | "-N") => drop(words.next().context("an option needs a value")?),
                Some(flags) if flags.len() > 1 && flags.starts_with('-') => {
                    let flags = &flags[1..];
                    ensure!(flags.chars().all(|c| "sfnv".contains(c)), "unknown option -{flags}");
                    fake |= flags.contains('f');
                }
                _ => paths.push(word),
            }
        }
        let [source, target] = paths[..] else {
            bail!("usage: mount.fuse.fsrv SOURCE TARGET [-o OPTION,OPTION=VALUE,..]")
        };
        let serve = options.command_line(source, target);
        Cli::parse(serve.clone())
            .map_err(|error| anyhow::anyhow!(report::first_paragraph(&error)))?;
        Ok(Self { serve, fake })
    }
}

/// The options of a line, sorted by whom they are for.
#[derive(Default)]
struct Options {
    serve: Vec<String>,
    mount: Vec<String>,
    readonly: bool,
}

impl Options {
    fn take(&mut self, list: &str) -> Result<()> {
        for word in list.split(',').filter(|word| !word.is_empty()) {
            self.take_one(word)?;
        }
        Ok(())
    }

    fn take_one(&mut self, word: &str) -> Result<()> {
        let (key, value) = word.split_once('=').map_or((word, None), |(k, v)| (k, Some(v)));
        match (key, value) {
            ("ro" | "rw", None) => self.readonly = key == "ro",
            ("allow_other", None) => self.serve.push("--allow-other=on".to_owned()),
            // The kernel always checks permissions.
            ("default_permissions", None) => {}
            (_, None) if FOR_OTHERS.contains(&key) => {}
            ("comment", Some(_)) => {}
            _ if key.starts_with("x-") || key.starts_with("X-") => {}
            (_, None) if MountOptions::new("").set(key) => self.mount.push(key.to_owned()),
            _ => {
                let option = key.replace('_', "-");
                ensure!(is_of_serve(&option), "unknown option {word:?}");
                let value = value.map_or(String::new(), |value| format!("={value}"));
                self.serve.push(format!("--{option}{value}"));
            }
        }
        Ok(())
    }

    fn command_line(self, source: &OsStr, target: &OsStr) -> Vec<OsString> {
        let mut words: Vec<OsString> = ["fsrv", "serve", "--background"].map(Into::into).into();
        let is_image = fs::metadata(source).is_ok_and(|found| !found.is_dir());
        let what = if is_image { "--image=" } else { "--dir=" };
        for (option, path) in [(what, source), ("--fuse=", target)] {
            words.push([OsStr::new(option), path].into_iter().collect());
        }
        words.extend(self.serve.into_iter().map(OsString::from));
        let says = |option: &str| words.iter().any(|word| word == option);
        // An image is read-only unless it is said to be writable: then it cannot be both.
        if self.readonly && !says("--readonly") && (!is_image || says("--writable")) {
            words.push("--readonly".into());
        }
        if !self.mount.is_empty() {
            words.push(format!("--mount-options={}", self.mount.join(",")).into());
        }
        words
    }
}

fn is_of_serve(option: &str) -> bool {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").expect("fsrv has a command serve");
    !NOT_IN_A_LINE.contains(&option)
        && serve.get_arguments().any(|arg| arg.get_long() == Some(option))
}

/// Starts this program again as a server of its own. Returns whether it has mounted.
fn start_server(words: &[OsString]) -> Result<bool> {
    let (mut mounted, theirs) = pipe().context("cannot start the server")?;
    let mut server = process::Command::new("/proc/self/exe");
    server.arg0(&words[0]).args(&words[1..]).stdin(Stdio::null()).stdout(theirs);
    let mut child = server.spawn().context("cannot start the server")?;
    // Only the server may keep the pipe open.
    drop(server);
    let mut word = [0; 1];
    if matches!(mounted.read(&mut word), Ok(1)) {
        return Ok(true);
    }
    Ok(child.wait().context("cannot wait for the server")?.success())
}

/// A server that was started by [`main`], which waits for it on its standard output.
pub(crate) struct Background {
    null: File,
}

impl Background {
    /// Leaves the session of the caller.
    ///
    /// # Errors
    /// When there is no `/dev/null`.
    pub(crate) fn begin() -> Result<Self> {
        // It fails in a process that leads a group already, which then has left before.
        let _ = rustix::process::setsid();
        let null = File::options().read(true).write(true).open("/dev/null");
        Ok(Self { null: null.context("cannot open /dev/null")? })
    }

    /// Lets the caller go, and its standard output and error.
    ///
    /// # Errors
    /// When they cannot be replaced.
    pub(crate) fn mounted(self) -> Result<()> {
        // A caller that is gone does not want to know.
        let _ = std::io::stdout().write_all(b"\n").and_then(|()| std::io::stdout().flush());
        rustix::stdio::dup2_stdout(&self.null).context("cannot leave standard output")?;
        rustix::stdio::dup2_stderr(&self.null).context("cannot leave standard error")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides() {
        let words = |name: &str| [OsString::from(name)];
        assert_eq!(name(&words("/sbin/mount.fuse.fsrv")).as_deref(), Some("mount.fuse.fsrv"));
        assert_eq!(name(&words("fsrv")), None);
        assert_eq!(name(&[]), None);
    }

    #[test]
    fn a_line_becomes_a_command() {
        let line = parse("/data /mnt -sn -o rw,noauto,nosuid,cache=never,x-a=b,allow_other,nodev");
        let words = "fsrv serve --background --dir=/data --fuse=/mnt --cache=never \
                     --allow-other=on --mount-options=nosuid,nodev";
        assert_eq!(line.unwrap(), Line { serve: split(words), fake: false });
    }

    #[test]
    fn the_last_of_ro_and_rw_holds() {
        assert!(is_read_only("rw,ro"));
        assert!(!is_read_only("ro,rw"));
        assert!(is_read_only("readonly,ro"));
    }

    #[test]
    fn a_file_is_an_image() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let path = image.path().display();
        let line = parse(&format!("{path} /m -o ro,format=raw")).unwrap();
        let words = format!("fsrv serve --background --image={path} --fuse=/m --format=raw");
        assert_eq!(line.serve, split(&words));
        let said = parse(&format!("{path} /m -o ro,format=raw,writable")).unwrap_err().to_string();
        assert!(said.contains("--readonly"), "{said}");
    }

    #[test]
    fn options_may_come_first_and_in_parts() {
        let line = parse("-o attr_timeout=2 -f -t fuse.fsrv /data -o writeback /mnt").unwrap();
        assert!(line.fake);
        assert!(line.serve.contains(&"--attr-timeout=2".into()));
        assert!(line.serve.contains(&"--writeback".into()));
    }

    #[test]
    fn a_wrong_line_is_refused_and_named() {
        for (line, named) in [
            ("/data", "usage"),
            ("/data /mnt -o fast", "fast"),
            ("/data /mnt -o dir=/etc", "dir"),
            ("/data /mnt -o cache=sometimes", "sometimes"),
            ("/data /mnt -o cache=auto,cache=never", "--cache"),
            ("/data /mnt -x", "-x"),
            ("/data /mnt -o", "-o"),
        ] {
            let said = parse(line).unwrap_err().to_string();
            assert!(said.contains(named), "{named} in {said}");
        }
    }

    fn is_read_only(options: &str) -> bool {
        let line = parse(&format!("/data /mnt -o {options}")).unwrap();
        line.serve.contains(&"--readonly".into())
    }

    fn parse(line: &str) -> Result<Line> {
        Line::parse(&split(line))
    }

    fn split(words: &str) -> Vec<OsString> {
        words.split_whitespace().map(OsString::from).collect()
    }
}
