//! What a client that gathers writes has and the host does not have yet.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, ftruncate, seek};
use rustix::io::Errno;

use crate::served::{Served, directory};

/// How long attributes are kept matters as well.
const MANNERS: [&[&str]; 3] = [
    &["--writeback", "--cache", "auto"],
    &["--writeback", "--cache", "always"],
    &["--writeback", "--cache", "always", "--io-engine", "threads"],
];

/// A shell that was there before any file was opened: closing even a copy of a descriptor writes everything back.
struct Shell {
    shell: Child,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn new() -> Self {
        let mut shell = Command::new("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let output = BufReader::new(shell.stdout.take().expect("a pipe"));
        Self { shell, output }
    }

    /// The last line that `command` printed.
    fn run(&mut self, command: &str) -> String {
        let stdin = self.shell.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "echo $( ({command}) 2>&1 | tail -n 1)").expect("a shell");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

#[test]
fn programs_copy_what_another_has_just_written() {
    const COPIES: [&str; 6] = [
        "cp file copy",
        "cp --sparse=always file copy",
        "cp --reflink=auto file copy",
        "tar cSf archive file; tar xOf archive file > copy",
        "dd if=file of=copy bs=4096 iflag=direct",
        "cat file > copy",
    ];
    for manner in MANNERS {
        let served = Served::new(manner);
        let mut shell = Shell::new();
        let cd = format!("cd {}", served.mounted().display());
        for is_new in [true, false] {
            for copy in COPIES {
                let path = served.mounted().join("file");
                if !is_new {
                    fs::write(&path, "").unwrap();
                    assert_eq!(shell.run(&format!("{cd}; stat -c %s file")), "0");
                }
                let file = open(&path).unwrap();
                file.write_all_at(&[7; 10_000], 0).unwrap();
                let seen = shell.run(&format!("{cd}; {copy}; cmp file copy && echo the same"));
                assert_eq!(seen, "the same", "{copy} with {manner:?}, {is_new}");
                drop(file);
                fs::remove_file(&path).unwrap();
                fs::remove_file(served.mounted().join("copy")).unwrap();
            }
        }
        drop(shell);
        served.stop();
    }
}

#[test]
fn data_is_found_that_the_host_does_not_have() {
    for manner in MANNERS {
        let served = Served::new(manner);
        let file = open(&served.mounted().join("file")).unwrap();
        file.write_all_at(&[7; 10_000], 0).unwrap();
        assert_eq!(seek(&file, SeekFrom::Data(0)), Ok(0));
        assert_eq!(seek(&file, SeekFrom::Data(9999)), Ok(9999));
        assert_eq!(seek(&file, SeekFrom::Hole(0)), Ok(10_000));
        assert_eq!(seek(&file, SeekFrom::Data(10_000)), Err(Errno::NXIO));
        let stat = file.metadata().unwrap();
        assert_eq!(stat.len(), 10_000);
        assert!(stat.blocks() > 0);
        drop(file);
        served.stop();
    }
}

type Act = fn(&File, &Path) -> io::Result<()>;

/// What may come between a write and its way to the host.
const ACTS: [(&str, Act); 14] = [
    ("fallocate", |file, _| Ok(fallocate(file, FallocateFlags::empty(), 5000, 20_000)?)),
    ("fallocate behind the end", |file, _| {
        Ok(fallocate(file, FallocateFlags::KEEP_SIZE, 5000, 90_000)?)
    }),
    ("punch", |file, _| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(file, flags, 1000, 5000)?)
    }),
    ("zero", |file, _| Ok(fallocate(file, FallocateFlags::ZERO_RANGE, 3000, 9000)?)),
    ("cut", |file, _| Ok(ftruncate(file, 4097)?)),
    ("cut and lengthen", |file, _| {
        ftruncate(file, 4097)?;
        Ok(ftruncate(file, 9000)?)
    }),
    ("lengthen", |file, _| Ok(ftruncate(file, 50_000)?)),
    ("copy from", |file, dir| {
        let to = open(&dir.join("copy"))?;
        copy_file_range(file, Some(&mut 100), to, Some(&mut 50), 8000).map(drop)?;
        Ok(())
    }),
    ("copy into", |file, dir| {
        fs::write(dir.join("copy"), [3; 9000])?;
        let from = File::open(dir.join("copy"))?;
        copy_file_range(from, Some(&mut 100), file, Some(&mut 5000), 8000).map(drop)?;
        Ok(())
    }),
    ("copy within", |file, _| {
        copy_file_range(file, Some(&mut 0), file, Some(&mut 20_000), 9000).map(drop)?;
        Ok(())
    }),
    ("append", |_, dir| {
        OpenOptions::new().append(true).open(dir.join("file"))?.write_all(&[9; 1000])
    }),
    ("past the cache", |_, dir| {
        let mut options = OpenOptions::new();
        let file = options.write(true).custom_flags(libc::O_DIRECT).open(dir.join("file"))?;
        let block = Box::new(super::sys::Aligned([4; 8192]));
        file.write_all_at(&block.0[..4096], 4096)
    }),
    ("rename and link", |_, dir| {
        fs::hard_link(dir.join("file"), dir.join("link"))?;
        fs::rename(dir.join("link"), dir.join("other"))
    }),
    ("open anew and cut", |_, dir| File::create(dir.join("file")).map(drop)),
];

#[test]
fn what_comes_between_a_write_and_its_way_to_the_host_sees_the_write() {
    let native = directory();
    for (name, act) in ACTS {
        let expected = seen_around(act, native.path());
        for manner in MANNERS {
            let served = Served::new(manner);
            assert_eq!(seen_around(act, served.mounted()), expected, "{name} with {manner:?}");
            served.stop();
        }
    }
}

fn seen_around(act: Act, dir: &Path) -> impl PartialEq + Debug + use<> {
    let file = open(&dir.join("file")).unwrap();
    file.write_all_at(&[7; 10_000], 0).unwrap();
    file.write_all_at(&[8; 3000], 30_000).unwrap();
    let result = act(&file, dir).map_err(|error| error.raw_os_error());
    let len = file.metadata().unwrap().len();
    file.write_all_at(&[5; 10], 2000).unwrap();
    let content = ["file", "copy"].map(|name| content(&dir.join(name)));
    drop(file);
    let listed = names(dir);
    for name in &listed {
        fs::remove_file(dir.join(name)).unwrap();
    }
    (result, len, content, listed)
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// The length of a file, and where its bytes change.
fn content(path: &Path) -> Option<(usize, Vec<(usize, u8)>)> {
    let bytes = fs::read(path).ok()?;
    let mut changes = Vec::new();
    for (at, &byte) in bytes.iter().enumerate() {
        if at == 0 || byte != bytes[at - 1] {
            changes.push((at, byte));
        }
    }
    Some((bytes.len(), changes))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}
