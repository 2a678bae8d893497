//! A line of fstab, as mount(8) hands it over.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use anyhow::{Context, Result, bail, ensure};
use fsrv_transport::fuse_dev::MountOptions;

use super::options::Options;
use crate::{args::Cli, report};

/// What old lines have before the source.
const PREFIX: &[u8] = b"fsrv#";

/// What a line asks for.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) task: Task,
    /// Do everything but that.
    pub(super) fake: bool,
    /// What is said of options that change nothing.
    pub(super) ignored: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Task {
    /// To start a server, by this command line of `fsrv`.
    Mount(Vec<OsString>),
    /// To change the options of a mount.
    Remount(PathBuf, MountOptions),
}

impl Line {
    /// # Errors
    /// What is wrong with `words`.
    pub(super) fn parse(words: &[OsString]) -> Result<Self> {
        let (mut paths, mut options, mut fake) = (Vec::new(), Options::default(), false);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.to_str() {
                Some("-o") => {
                    let list = words.next().context("-o needs a list of options")?;
                    options.take(list.to_str().context("an option is not UTF-8")?)?;
                }
                Some("-t" | "-N") => drop(words.next().context("an option needs a value")?),
                Some(list) if list.starts_with("-o") => options.take(&list[2..])?,
                Some(flags) if flags.len() > 1 && flags.starts_with('-') => {
                    let flags = &flags[1..];
                    ensure!(flags.chars().all(|c| "sfnv".contains(c)), "unknown option -{flags}");
                    fake |= flags.contains('f');
                }
                _ => paths.push(word.as_os_str()),
            }
        }
        let [source, target] = paths[..] else {
            bail!("usage: mount.fuse.fsrv SOURCE TARGET [-o OPTION,OPTION=VALUE,..]")
        };
        let source = source.as_bytes().strip_prefix(PREFIX).map_or(source, OsStr::from_bytes);
        let mut ignored = std::mem::take(&mut options.ignored);
        let task = if options.remount {
            if !options.serve.is_empty() {
                let options = options.serve.join(" ");
                ignored.push(format!("a remount leaves the server as it is: {options}"));
            }
            Task::Remount(target.into(), options.of_mount())
        } else {
            let serve = options.command_line(source, target);
            Cli::parse(serve.clone())
                .map_err(|error| anyhow::anyhow!(report::first_paragraph(&error)))?;
            Task::Mount(serve)
        };
        Ok(Self { task, fake, ignored })
    }
}

impl Options {
    fn command_line(self, source: &OsStr, target: &OsStr) -> Vec<OsString> {
        let mut words: Vec<OsString> = ["fsrv", "serve", "--background"].map(Into::into).into();
        let is_image = fs::metadata(source).is_ok_and(|found| !found.is_dir());
        let what = if is_image { "--image=" } else { "--dir=" };
        for (option, path) in [(what, source), ("--fuse=", target)] {
            words.push([OsStr::new(option), path].into_iter().collect());
        }
        words.extend(self.serve.into_iter().map(OsString::from));
        if self.allow_other {
            words.push("--allow-other=on".into());
        }
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

    /// What the kernel alone has to know.
    fn of_mount(&self) -> MountOptions {
        let mut options = MountOptions::new("");
        for word in &self.mount {
            options.set(word);
        }
        options.set(if self.readonly { "ro" } else { "rw" });
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_command() {
        let line = parse("/data /mnt -sn -o rw,noauto,nosuid,cache=never,x-a=b,allow_other,nodev");
        let words = "fsrv serve --background --dir=/data --fuse=/mnt --cache=never \
                     --allow-other=on --mount-options=nosuid,nodev";
        assert_eq!(serve(&line.unwrap()), split(words));
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
        assert_eq!(serve(&line), split(&words));
        let said = parse(&format!("{path} /m -o ro,format=raw,writable")).unwrap_err().to_string();
        assert!(said.contains("--readonly"), "{said}");
    }

    #[test]
    fn options_may_come_first_and_in_parts() {
        let line = parse("-o attr_timeout=2 -f -t fuse.fsrv /data -o writeback /mnt").unwrap();
        assert!(line.fake);
        assert!(serve(&line).contains(&"--attr-timeout=2".into()));
        assert!(serve(&line).contains(&"--writeback".into()));
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

    #[test]
    fn a_source_may_have_the_name_of_the_program_before_it() {
        let line = parse("fsrv#/data /mnt -orw,dev,suid").unwrap();
        assert!(serve(&line).contains(&"--dir=/data".into()), "{line:?}");
    }

    #[test]
    fn a_remount_changes_the_mount_alone() {
        let line = parse(
            "/data /mnt -o rw,user_id=0,allow_other,max_read=1,cache=never,nosuid,remount,ro",
        )
        .unwrap();
        let Task::Remount(target, _) = &line.task else { panic!("{line:?}") };
        assert_eq!(target, std::path::Path::new("/mnt"));
        assert!(line.ignored[1].contains("--cache=never"), "{:?}", line.ignored);
    }

    fn serve(line: &Line) -> &[OsString] {
        match &line.task {
            Task::Mount(words) => words,
            Task::Remount(..) => panic!("{line:?}"),
        }
    }

    fn is_read_only(options: &str) -> bool {
        let line = parse(&format!("/data /mnt -o {options}")).unwrap();
        serve(&line).contains(&"--readonly".into())
    }

    fn parse(line: &str) -> Result<Line> {
        Line::parse(&split(line))
    }

    fn split(words: &str) -> Vec<OsString> {
        words.split_whitespace().map(OsString::from).collect()
    }
}
