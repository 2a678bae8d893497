//! Run as mount(8) runs it, for a line of fstab or `mount -t fuse.fsrv`.
//!
//! As `mount.fuse.fsrv SOURCE TARGET [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]`, or, where that link does not exist, by
//! libfuse's mount.fuse3 as `fsrv SOURCE TARGET [-o OPTIONS]`.

mod background;
mod line;
mod options;

use std::{
    ffi::OsString,
    io::{Read, pipe},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    process::{self, ExitCode, Stdio},
};

use anyhow::{Context, Result};
use fsrv_transport::{fuse_dev, io::name_limits};

pub(crate) use background::Background;

use crate::report;
use line::{Line, Task};

/// Exit codes of mount(8).
const USAGE: u8 = 1;
const FAILURE: u8 = 32;

const NAMES: [&str; 2] = ["mount.fuse.fsrv", "mount.fsrv"];

/// The name that this program was called by, if it is one of a mount program or called like one: with a path as the first
/// word, which no command is.
pub(crate) fn name(words: &[OsString]) -> Option<String> {
    let name = Path::new(words.first()?).file_name()?.to_str()?;
    let is_path = |word: &&OsString| word.as_bytes().contains(&b'/') && word.as_bytes()[0] != b'-';
    (NAMES.contains(&name) || words.get(1).as_ref().is_some_and(is_path)).then(|| name.to_owned())
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
    for ignored in &line.ignored {
        report::say(format_args!("{name}: {ignored}"));
    }
    if line.fake {
        return ExitCode::SUCCESS;
    }
    match line.task.run() {
        Ok(true) => ExitCode::SUCCESS,
        // The server has said why.
        Ok(false) => ExitCode::from(FAILURE),
        Err(error) => {
            report::failure(name, &error);
            ExitCode::from(FAILURE)
        }
    }
}

impl Task {
    fn run(&self) -> Result<bool> {
        match self {
            Self::Mount(words) => start_server(words),
            Self::Remount(target, options) => {
                let context = || format!("cannot remount {}", target.display());
                fuse_dev::remount(target, options).with_context(context)?;
                Ok(true)
            }
        }
    }
}

/// Starts this program again as a server of its own. Returns whether it has mounted.
fn start_server(words: &[OsString]) -> Result<bool> {
    let (mut mounted, theirs) = pipe().context("cannot start the server")?;
    let mut server = process::Command::new("/proc/self/exe");
    server.arg0(&words[0]).args(&words[1..]).stdin(Stdio::null()).stdout(theirs);
    let mut child = server.spawn().map_err(name_limits).context("cannot start the server")?;
    // Only the server may keep the pipe open.
    drop(server);
    let mut word = [0; 1];
    if matches!(mounted.read(&mut word), Ok(1)) {
        return Ok(true);
    }
    Ok(child.wait().context("cannot wait for the server")?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides_or_a_path_as_the_first_word() {
        let called = |words: &str| name(&words.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(called("/sbin/mount.fuse.fsrv").as_deref(), Some("mount.fuse.fsrv"));
        assert_eq!(called("fsrv /src /mnt -o rw").as_deref(), Some("fsrv"));
        assert_eq!(called("fsrv ./src /mnt").as_deref(), Some("fsrv"));
        assert_eq!(called("/usr/bin/fsrv serve --dir /a --fuse /b"), None);
        assert_eq!(called("fsrv --dir=/a"), None);
        assert_eq!(called("fsrv"), None);
        assert_eq!(name(&[]), None);
    }
}
