//! Reading directories.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{RawDir, SeekFrom, seek};

use super::{CORNERS, alike};
use crate::served::Served;

/// More than fits in any one reply.
const MANY: usize = 10_000;

/// A name, its inode number, and the offset that continues behind it.
type Entry = (OsString, u64, u64);

#[test]
fn dot_and_dot_dot_lead_to_the_directory_and_the_one_above() {
    alike(|dir| {
        let sub = dir.join("sub");
        fs::create_dir(&sub).unwrap();
        let listed = inodes(&sub);
        let above = inodes(dir);
        (
            listed["."] == ino(&sub),
            listed[".."] == ino(dir),
            above["."] == ino(dir),
            above["sub"] == ino(&sub),
            above.contains_key(".."),
        )
    });
}

#[test]
fn dot_dot_of_the_root_stays_in_the_mount() {
    let served = Served::new(&[]);
    let root = inodes(served.mounted());
    assert_eq!(root["."], ino(served.mounted()));
    assert_eq!(root[".."], ino(served.mounted()));
}

#[test]
fn every_one_of_many_entries_comes_exactly_once() {
    alike(|dir| {
        fill(dir, MANY);
        // Unread attributes: readdirplus. Then again without a lookup in between: readdir.
        let first = names(dir);
        let second = names(dir);
        let stat: BTreeSet<u64> =
            first.iter().filter(|name| *name != "..").map(|name| ino(&dir.join(name))).collect();
        (first.len(), first == second, stat.len(), first.into_iter().collect::<BTreeSet<_>>())
    });
}

#[test]
fn a_listing_with_attributes_has_them_all() {
    alike(|dir| {
        fill(dir, 3000);
        let sizes = || {
            let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
            entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().len()))
        };
        (sizes().collect::<BTreeMap<_, _>>(), sizes().count())
    });
}

#[test]
fn reading_goes_on_where_it_was_told_to_after_deletions_and_creations() {
    for corner in CORNERS {
        let served = Served::new(corner);
        let dir = served.mounted();
        fill(dir, 2000);
        let open = File::open(dir).unwrap();
        let mut entries = read(&open);
        let rest: BTreeSet<OsString> =
            entries.split_off(1000).into_iter().map(|(name, ..)| name).collect();
        let (_, _, offset) = entries[999];

        // Behind the offset nothing may be lost, whatever happens before it or to its own entry.
        for (name, ..) in &entries {
            if name != "." && name != ".." {
                fs::remove_file(dir.join(name)).unwrap();
            }
        }
        (0..300).for_each(|number| drop(File::create(dir.join(format!("new{number}"))).unwrap()));
        seek(&open, SeekFrom::Start(offset)).unwrap();
        let now: Vec<OsString> = read(&open).into_iter().map(|(name, ..)| name).collect();

        let old: Vec<&OsString> = now.iter().filter(|name| is_old(name)).collect();
        let once: BTreeSet<OsString> = old.iter().map(|name| (*name).clone()).collect();
        assert_eq!(old.len(), once.len(), "an entry came twice, {corner:?}");
        assert_eq!(once, rest.iter().filter(|name| is_old(name)).cloned().collect(), "{corner:?}");
        served.stop();
    }
}

#[test]
fn rewinding_shows_what_there_is_by_then() {
    alike(|dir| {
        fill(dir, 10);
        let open = File::open(dir).unwrap();
        let before = read(&open).len();
        fs::remove_file(dir.join("entry-3")).unwrap();
        File::create(dir.join("another")).unwrap();
        seek(&open, SeekFrom::Start(0)).unwrap();
        let after: BTreeSet<OsString> = read(&open).into_iter().map(|(name, ..)| name).collect();
        (before, after)
    });
}

#[test]
fn every_offset_that_was_told_can_be_come_back_to() {
    alike(|dir| {
        fill(dir, 200);
        let open = File::open(dir).unwrap();
        let entries = read(&open);
        let found = entries.windows(2).rev().filter(|pair| {
            seek(&open, SeekFrom::Start(pair[0].2)).unwrap();
            read(&open).first().is_some_and(|(name, ..)| *name == pair[1].0)
        });
        (entries.len(), found.count())
    });
}

#[test]
fn a_directory_removed_while_open_reads_as_empty() {
    alike(|dir| {
        let sub = dir.join("sub");
        fs::create_dir(&sub).unwrap();
        let open = File::open(&sub).unwrap();
        fs::remove_dir(&sub).unwrap();
        let stat = open.metadata().unwrap();
        (read_all(&open).map(|entries| entries.len()), stat.nlink())
    });
}

#[test]
fn names_of_any_bytes_are_listed_and_found() {
    alike(|dir| {
        let names = [
            OsString::from_vec(vec![0xff, 0xfe, 0x80]),
            OsString::from_vec((1..=255).filter(|&byte| byte != b'/').collect()),
            OsString::from("n".repeat(255)),
            OsString::from("..."),
            OsString::from(" \n"),
        ];
        for name in &names {
            fs::write(dir.join(name), name.as_encoded_bytes()).unwrap();
        }
        let listed: BTreeSet<OsString> = self::names(dir).into_iter().collect();
        let read = names.map(|name| fs::read(dir.join(name)).unwrap());
        let too_long = File::create(dir.join("n".repeat(256))).unwrap_err().raw_os_error();
        (listed, read, too_long)
    });
}

fn fill(dir: &Path, number: usize) {
    for number in 0..number {
        fs::write(dir.join(format!("entry-{number}")), vec![b'x'; number % 7]).unwrap();
    }
}

fn is_old(name: &OsString) -> bool {
    name.as_encoded_bytes().starts_with(b"entry-")
}

fn ino(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

fn inodes(dir: &Path) -> BTreeMap<String, u64> {
    let entries = read(&File::open(dir).unwrap()).into_iter();
    entries.map(|(name, ino, _)| (name.into_string().unwrap(), ino)).collect()
}

fn names(dir: &Path) -> Vec<OsString> {
    read(&File::open(dir).unwrap()).into_iter().map(|(name, ..)| name).collect()
}

fn read(dir: &File) -> Vec<Entry> {
    read_all(dir).unwrap()
}

/// What is left to read of an open directory.
fn read_all(dir: &File) -> rustix::io::Result<Vec<Entry>> {
    let mut buffer = vec![MaybeUninit::uninit(); 16 << 10];
    let mut raw = RawDir::new(dir, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
        entries.push((name, entry.ino(), entry.next_entry_cookie()));
    }
    Ok(entries)
}
