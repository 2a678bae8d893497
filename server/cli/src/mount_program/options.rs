//! The options of a line: for whom each is, and what is said of those that are for nobody.

use anyhow::{Result, bail, ensure};
use clap::CommandFactory;
use fsrv_transport::fuse_dev::MountOptions;

use crate::args::Cli;

/// Options of a line that are for mount(8), systemd and the like, or say what is so anyway.
const FOR_OTHERS: [&str; 18] = [
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "nofail",
    "_netdev",
    "_rnetdev",
    "silent",
    "loud",
    "nomand",
    // The kernel always checks permissions.
    "default_permissions",
];

/// The same with a value. A remount has those that the kernel lists.
const FOR_OTHERS_WITH_VALUE: [&str; 7] =
    ["comment", "user", "uhelper", "helper", "user_id", "group_id", "rootmode"];

/// Options of libfuse that change nothing here, and why.
const IGNORED: [(&str, &str); 22] = [
    ("nonempty", "a mount point need not be empty"),
    ("auto_cache", "it is so with --cache auto, the default"),
    ("noauto_cache", "--cache decides"),
    ("big_writes", "writes are as large as the kernel sends them"),
    ("large_read", "reads are as large as the kernel sends them"),
    ("max_read", SETTLED),
    ("max_write", SETTLED),
    ("max_readahead", SETTLED),
    ("max_background", SETTLED),
    ("congestion_threshold", SETTLED),
    ("async_read", SETTLED),
    ("async_dio", SETTLED),
    ("atomic_o_trunc", SETTLED),
    ("splice_read", SETTLED),
    ("splice_write", SETTLED),
    ("splice_move", SETTLED),
    ("use_ino", "inode numbers are the host's"),
    ("readdir_ino", "inode numbers are the host's"),
    ("hard_remove", "removed files stay readable while they are open"),
    ("fsname", "the list of mounts names what is served"),
    ("subtype", "it is fsrv"),
    (
        "auto_unmount",
        "the mount ends with the server, unless that is killed by SIGKILL: then `umount` removes it",
    ),
];

const SETTLED: &str = "it is settled with the kernel";

/// Options of libfuse that would change something, and what to say instead.
const REFUSED: [(&str, &str); 15] = [
    ("kernel_cache", "say cache=always"),
    ("direct_io", "say cache=never"),
    ("ac_attr_timeout", "say attr_timeout=SECONDS"),
    ("noforget", "known files are forgotten when the kernel says so"),
    ("remember", "known files are forgotten when the kernel says so"),
    ("allow_root", "say allow_other"),
    ("uid", OWNERS),
    ("gid", OWNERS),
    ("umask", OWNERS),
    ("fmask", OWNERS),
    ("dmask", OWNERS),
    ("modules", "there are none"),
    ("debug", "say log_level=debug"),
    ("blkdev", "a disk image needs no option: name it as the source"),
    ("blksize", "a disk image needs no option: name it as the source"),
];

const OWNERS: &str = "files keep the owners and modes that they have on the host; mount it with X-mount.idmap, or change them there";

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

/// The options of a line, sorted by whom they are for.
#[derive(Default)]
pub(super) struct Options {
    /// Options of `fsrv serve`.
    pub(super) serve: Vec<String>,
    /// Options of the mount.
    pub(super) mount: Vec<String>,
    pub(super) readonly: bool,
    pub(super) allow_other: bool,
    pub(super) remount: bool,
    /// What is said of those that change nothing.
    pub(super) ignored: Vec<String>,
}

impl Options {
    /// Takes a list of options with commas between them.
    ///
    /// # Errors
    /// Which option is unknown or not to be had, and what to say instead.
    pub(super) fn take(&mut self, list: &str) -> Result<()> {
        for word in list.split(',').filter(|word| !word.is_empty()) {
            self.take_one(word)?;
        }
        Ok(())
    }

    fn take_one(&mut self, word: &str) -> Result<()> {
        let (key, value) = word.split_once('=').map_or((word, None), |(k, v)| (k, Some(v)));
        match (key, value) {
            ("ro" | "rw", None) => self.readonly = key == "ro",
            ("remount", None) => self.remount = true,
            ("allow_other", None) => self.allow_other = true,
            (_, None) if FOR_OTHERS.contains(&key) => {}
            (_, Some(_)) if FOR_OTHERS_WITH_VALUE.contains(&key) => {}
            _ if key.starts_with("x-") || key.starts_with("X-") => {}
            (_, None) if MountOptions::new("").set(key) => self.mount.push(key.to_owned()),
            _ => self.take_of_a_server(word, key, value)?,
        }
        Ok(())
    }

    fn take_of_a_server(&mut self, word: &str, key: &str, value: Option<&str>) -> Result<()> {
        if let Some(why) = reason(&IGNORED, key) {
            self.ignored.push(format!("the option {key} changes nothing: {why}"));
            return Ok(());
        }
        if let Some(way_out) = reason(&REFUSED, key) {
            bail!("the option {key} is not to be had: {way_out}");
        }
        let option = key.replace('_', "-");
        ensure!(is_of_serve(&option), "unknown option {word:?}");
        let value = value.map_or(String::new(), |value| format!("={value}"));
        self.serve.push(format!("--{option}{value}"));
        Ok(())
    }
}

fn reason(list: &[(&str, &'static str)], key: &str) -> Option<&'static str> {
    list.iter().find(|(name, _)| *name == key).map(|(_, reason)| *reason)
}

fn is_of_serve(option: &str) -> bool {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").expect("fsrv has a command serve");
    !NOT_IN_A_LINE.contains(&option)
        && serve.get_arguments().any(|arg| arg.get_long() == Some(option))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_bring_along_is_no_error() {
        let mut options = Options::default();
        let list = "defaults,user=joe,comment=x,x-systemd.automount,X-mount.mkdir,nofail,_netdev";
        options.take(list).unwrap();
        assert!(options.serve.is_empty() && options.mount.is_empty() && options.ignored.is_empty());
    }

    #[test]
    fn what_changes_nothing_is_named_with_the_reason() {
        for (key, _) in IGNORED {
            let mut options = Options::default();
            options.take(&format!("{key},rw")).unwrap();
            assert!(options.ignored[0].contains(key), "{:?}", options.ignored);
        }
        let mut options = Options::default();
        options.take("max_read=131072").unwrap();
        assert_eq!(options.ignored.len(), 1);
    }

    #[test]
    fn what_would_change_something_is_refused_with_the_way_out() {
        for (key, way_out) in REFUSED {
            for word in [key.to_owned(), format!("{key}=1000")] {
                let said = Options::default().take(&word).unwrap_err().to_string();
                assert!(said.contains(key) && said.contains(way_out), "{said}");
            }
        }
    }

    #[test]
    fn no_option_is_in_two_lists() {
        let serve = |key: &str| is_of_serve(&key.replace('_', "-"));
        for (key, _) in IGNORED.iter().chain(&REFUSED) {
            assert!(!serve(key) && !FOR_OTHERS.contains(key), "{key}");
            assert!(!MountOptions::new("").set(key), "{key}");
        }
    }
}
