//! Names: renaming, linking, long and deep ones.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, mkdirat, open, openat, renameat_with};
use rustix::io::Errno;

use super::alike;

#[test]
fn renames_do_what_their_flags_say() {
    alike(|dir| {
        let flags = [
            RenameFlags::empty(),
            RenameFlags::NOREPLACE,
            RenameFlags::EXCHANGE,
            RenameFlags::WHITEOUT,
            RenameFlags::WHITEOUT | RenameFlags::NOREPLACE,
            RenameFlags::EXCHANGE | RenameFlags::NOREPLACE,
            RenameFlags::from_bits_retain(1 << 10),
        ];
        let targets = ["missing", "file", "empty", "full", "link"];
        let mut seen = Vec::new();
        for (turn, flags) in flags.into_iter().enumerate() {
            for target in targets {
                for source in ["from-file", "from-dir"] {
                    let place = dir.join(format!("{turn}-{target}-{source}"));
                    fill(&place);
                    let (from, to) = (place.join(source), place.join(target));
                    let result = renameat_with(CWD, &from, CWD, &to, flags);
                    seen.push(format!("{flags:?} {source} {target} {result:?} {:?}", tree(&place)));
                }
            }
        }
        seen
    });
}

fn fill(place: &Path) {
    fs::create_dir_all(place.join("full/sub")).unwrap();
    fs::create_dir(place.join("empty")).unwrap();
    fs::create_dir(place.join("from-dir")).unwrap();
    fs::write(place.join("from-file"), "from").unwrap();
    fs::write(place.join("file"), "to").unwrap();
    symlink("file", place.join("link")).unwrap();
}

/// Names, types and the contents of files.
fn tree(dir: &Path) -> Vec<String> {
    let mut seen: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let kind = FileType::from_raw_mode(stat.mode());
            let content = stat.is_file().then(|| fs::read_to_string(&path).unwrap());
            format!("{:?} {kind:?} {} {content:?}", path.file_name().unwrap(), stat.rdev())
        })
        .collect();
    seen.sort();
    seen
}

#[test]
fn open_files_and_directories_move_with_their_names() {
    use std::os::unix::fs::FileExt;
    alike(|dir| {
        fs::create_dir(dir.join("a")).unwrap();
        fs::create_dir(dir.join("b")).unwrap();
        let file = File::create_new(dir.join("a/file")).unwrap();
        let open_dir = open(dir.join("a"), OFlags::DIRECTORY, Mode::empty()).unwrap();
        fs::rename(dir.join("a/file"), dir.join("b/moved")).unwrap();
        file.write_all_at(b"after", 0).unwrap();
        fs::rename(dir.join("a"), dir.join("b/a")).unwrap();
        let below = openat(&open_dir, "new", OFlags::CREATE | OFlags::RDWR, Mode::RUSR).is_ok();
        let loops = fs::rename(dir.join("b"), dir.join("b/a/b")).unwrap_err().raw_os_error();
        (fs::read(dir.join("b/moved")).unwrap(), below, dir.join("b/a/new").exists(), loops)
    });
}

#[test]
fn a_rename_over_an_open_file_leaves_that_readable() {
    alike(|dir| {
        fs::write(dir.join("old"), "old").unwrap();
        fs::write(dir.join("new"), "new").unwrap();
        let open = File::open(dir.join("old")).unwrap();
        fs::rename(dir.join("new"), dir.join("old")).unwrap();
        let links = open.metadata().unwrap().nlink();
        (std::io::read_to_string(open).unwrap(), fs::read(dir.join("old")).unwrap(), links)
    });
}

#[test]
fn link_counts_follow_every_link_and_unlink() {
    alike(|dir| {
        let count = |name: &str| fs::symlink_metadata(dir.join(name)).unwrap().nlink();
        fs::write(dir.join("file"), "x").unwrap();
        let mut counts = vec![count("file")];
        for number in 0..50 {
            fs::hard_link(dir.join("file"), dir.join(format!("link{number}"))).unwrap();
            counts.push(count("file"));
            counts.push(count(&format!("link{number}")));
        }
        for number in 0..25 {
            fs::remove_file(dir.join(format!("link{number}"))).unwrap();
            counts.push(count("link49"));
        }
        fs::write(dir.join("other"), "y").unwrap();
        fs::rename(dir.join("other"), dir.join("link30")).unwrap();
        counts.push(count("file"));
        for name in ["sub", "sub/1", "sub/2"] {
            fs::create_dir(dir.join(name)).unwrap();
            counts.push(count("sub"));
        }
        fs::remove_dir(dir.join("sub/1")).unwrap();
        counts.push(count("sub"));
        let of_dir = fs::hard_link(dir.join("sub"), dir.join("hard")).unwrap_err().raw_os_error();
        // A link of a link is another name of the link itself.
        symlink("file", dir.join("soft")).unwrap();
        fs::hard_link(dir.join("soft"), dir.join("soft2")).unwrap();
        counts.push(count("soft2"));
        (counts, of_dir, fs::read_link(dir.join("soft2")).unwrap())
    });
}

#[test]
fn links_hold_up_to_4095_bytes() {
    alike(|dir| {
        [1, 255, 4094, 4095, 4096].map(|len| {
            let target = PathBuf::from("t".repeat(len));
            let made = symlink(&target, dir.join(len.to_string()));
            let read = fs::read_link(dir.join(len.to_string()));
            let size = fs::symlink_metadata(dir.join(len.to_string())).map(|stat| stat.len());
            (
                made.map_err(|error| error.raw_os_error()),
                read.is_ok_and(|read| read == target),
                size.ok(),
            )
        })
    });
}

#[test]
fn links_lead_where_they_say_and_loops_end() {
    alike(|dir| {
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/file"), "content").unwrap();
        symlink("sub/file", dir.join("to-file")).unwrap();
        symlink("../to-file", dir.join("sub/up")).unwrap();
        symlink("loop", dir.join("loop")).unwrap();
        symlink("nowhere", dir.join("dangling")).unwrap();
        let read = |name: &str| fs::read(dir.join(name)).map_err(|error| error.raw_os_error());
        let created = fs::write(dir.join("dangling"), "made").is_ok();
        (read("to-file"), read("sub/up"), read("loop"), created, read("nowhere"))
    });
}

#[test]
fn trees_may_be_deeper_than_a_path_is_long() {
    alike(|dir| {
        let name = "d".repeat(200);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut here = open(dir, flags, Mode::empty()).unwrap();
        for _ in 0..60 {
            mkdirat(&here, &*name, Mode::RWXU).unwrap();
            here = openat(&here, &*name, flags, Mode::empty()).unwrap();
        }
        let bottom = openat(&here, "file", OFlags::CREATE | OFlags::RDWR, Mode::RUSR).is_ok();
        // From the bottom up, which asks for `..` at each level.
        let mut up = 0;
        let root = rustix::fs::stat(dir).unwrap().st_ino;
        while rustix::fs::fstat(&here).unwrap().st_ino != root {
            here = openat(&here, "..", flags, Mode::empty()).unwrap();
            up += 1;
        }
        let removed = fs::remove_dir_all(dir.join(&name)).is_ok();
        (bottom, up, removed)
    });
}

#[test]
fn paths_end_as_natively_at_what_is_no_directory() {
    alike(|dir| {
        fs::write(dir.join("file"), "").unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        let stat = |path: &str| rustix::fs::stat(dir.join(path)).map(|stat| stat.st_mode);
        let long = format!("sub/{}", "./".repeat(2100));
        let results: Vec<Result<u32, Errno>> =
            ["file/", "file/x", "sub/", "sub/.", "sub/..", "missing/..", &long]
                .map(stat)
                .into_iter()
                .collect();
        results
    });
}
