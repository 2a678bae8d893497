//! What a mount is like.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use rustix::{
    fs::OFlags,
    mount::{MountAttrFlags, MountFlags},
};

/// What a mount is like.
///
/// Permission is always checked by the kernel (`default_permissions`).
#[derive(Clone, Debug)]
pub struct MountOptions {
    pub(super) source: OsString,
    pub(super) allow_other: bool,
    pub(super) root: Root,
    /// One for each of [`FLAGS`].
    set: [bool; FLAGS.len()],
}

/// What is mounted on, which is what the root of the mount is too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Root {
    Directory,
    File,
}

impl Root {
    /// The type of the root as the kernel takes it, in octal.
    pub(super) fn mode(self) -> &'static str {
        match self {
            Self::Directory => "40000",
            Self::File => "100000",
        }
    }

    /// What opening adds to refuse anything else, as far as it can.
    pub(super) fn open_flags(self) -> OFlags {
        match self {
            Self::Directory => OFlags::DIRECTORY,
            // What is no regular file must not keep us waiting.
            Self::File => OFlags::NONBLOCK,
        }
    }
}

/// A flag of mount(8).
pub(super) struct Flag {
    pub(super) word: &'static str,
    /// The word that takes it back.
    opposite: &'static str,
    /// Its bit where it concerns the mount.
    pub(super) attr: MountAttrFlags,
    /// Whether it concerns the filesystem.
    pub(super) superblock: bool,
    /// Its bit for mount(2).
    old: MountFlags,
}

const fn flag(
    word: &'static str,
    opposite: &'static str,
    attr: MountAttrFlags,
    superblock: bool,
    old: MountFlags,
) -> Flag {
    Flag { word, opposite, attr, superblock, old }
}

const FLAGS: [Flag; 12] = [
    flag("ro", "rw", MountAttrFlags::MOUNT_ATTR_RDONLY, true, MountFlags::RDONLY),
    flag("nosuid", "suid", MountAttrFlags::MOUNT_ATTR_NOSUID, false, MountFlags::NOSUID),
    flag("nodev", "dev", MountAttrFlags::MOUNT_ATTR_NODEV, false, MountFlags::NODEV),
    flag("noexec", "exec", MountAttrFlags::MOUNT_ATTR_NOEXEC, false, MountFlags::NOEXEC),
    flag("noatime", "atime", MountAttrFlags::MOUNT_ATTR_NOATIME, false, MountFlags::NOATIME),
    flag(
        "strictatime",
        "nostrictatime",
        MountAttrFlags::MOUNT_ATTR_STRICTATIME,
        false,
        MountFlags::STRICTATIME,
    ),
    // The kernel's default; the word is here to be accepted.
    flag(
        "relatime",
        "norelatime",
        MountAttrFlags::MOUNT_ATTR_RELATIME,
        false,
        MountFlags::RELATIME,
    ),
    flag(
        "nodiratime",
        "diratime",
        MountAttrFlags::MOUNT_ATTR_NODIRATIME,
        false,
        MountFlags::NODIRATIME,
    ),
    flag(
        "nosymfollow",
        "symfollow",
        MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
        false,
        MountFlags::NOSYMFOLLOW,
    ),
    flag("sync", "async", MountAttrFlags::empty(), true, MountFlags::SYNCHRONOUS),
    flag("dirsync", "nodirsync", MountAttrFlags::empty(), true, MountFlags::DIRSYNC),
    flag("lazytime", "nolazytime", MountAttrFlags::empty(), true, MountFlags::LAZYTIME),
];

/// Of these the last one named holds.
const ATIME: [&str; 3] = ["noatime", "strictatime", "relatime"];

impl MountOptions {
    /// A mount that lists `source` as what is mounted, with the defaults of the kernel.
    pub fn new(source: impl Into<OsString>) -> Self {
        Self {
            source: source.into(),
            allow_other: false,
            root: Root::Directory,
            set: [false; FLAGS.len()],
        }
    }

    /// Mounts over a regular file instead of a directory. Node 1 must then be a regular file.
    ///
    /// A file has one such mount at a time, whichever of its names is mounted on: it is locked
    /// (flock(2)) until the mount is removed.
    #[must_use]
    pub fn over_file(mut self) -> Self {
        self.root = Root::File;
        self
    }

    /// Lets users other than the one who mounts in.
    #[must_use]
    pub fn allow_other(mut self, allow: bool) -> Self {
        self.allow_other = allow;
        self
    }

    /// Takes one word of mount(8), such as `ro` or `nosuid`. A later word wins over an earlier one.
    ///
    /// Returns whether the word is known.
    pub fn set(&mut self, word: &str) -> bool {
        if ATIME.contains(&word) {
            self.clear_atime();
        }
        for (flag, set) in FLAGS.iter().zip(&mut self.set) {
            if word == flag.word || word == flag.opposite {
                *set = word == flag.word;
                return true;
            }
        }
        false
    }

    /// The flags that are set.
    pub(super) fn flags(&self) -> impl Iterator<Item = &'static Flag> {
        FLAGS.iter().zip(self.set).filter_map(|(flag, set)| set.then_some(flag))
    }

    /// The bits of the mount.
    pub(super) fn attr(&self) -> MountAttrFlags {
        self.flags().fold(MountAttrFlags::empty(), |attr, flag| attr | flag.attr)
    }

    /// The bits for mount(2), of the mount and of the filesystem.
    pub(super) fn remount_flags(&self) -> MountFlags {
        self.flags().fold(MountFlags::empty(), |flags, flag| flags | flag.old)
    }

    /// All of it as one word for fusermount3.
    pub(super) fn for_program(&self, subtype: &str) -> OsString {
        let mut words = b"default_permissions,subtype=".to_vec();
        words.extend(subtype.bytes());
        words.extend(b",fsname=");
        words.extend(escaped(&self.source));
        if self.allow_other {
            words.extend(b",allow_other");
        }
        for flag in self.flags() {
            words.push(b',');
            words.extend(flag.word.bytes());
        }
        OsString::from_vec(words)
    }

    fn clear_atime(&mut self) {
        for (flag, set) in FLAGS.iter().zip(&mut self.set) {
            *set &= !ATIME.contains(&flag.word);
        }
    }
}

/// A comma would end the value.
fn escaped(value: &OsStr) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(value.len());
    for &byte in value.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_two_opposite_words_wins() {
        let mut options = MountOptions::new("x");
        for word in ["nosuid", "ro", "suid", "noatime", "strictatime"] {
            assert!(options.set(word), "{word}");
        }
        let words: Vec<_> = options.flags().map(|flag| flag.word).collect();
        assert_eq!(words, ["ro", "strictatime"]);
    }

    #[test]
    fn a_word_of_somebody_else_is_not_taken() {
        assert!(!MountOptions::new("x").set("cache=auto"));
    }

    #[test]
    fn a_source_with_a_comma_is_one_word_for_fusermount3() {
        let mut options = MountOptions::new("/a,b").allow_other(true);
        options.set("nodev");
        assert_eq!(
            options.for_program("fsrv"),
            r"default_permissions,subtype=fsrv,fsname=/a\,b,allow_other,nodev"
        );
    }
}
