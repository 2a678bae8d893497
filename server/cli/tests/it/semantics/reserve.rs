//! Space that the host's filesystem keeps for root.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FallocateFlags, XattrFlags, copy_file_range, fallocate, setxattr};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use super::user::{NOBODY, ROOT, User};
use crate::mount::Mount;
use crate::served::{FSRV, directory};

const SIZE: u64 = 64 << 20;

/// An empty ext4 of [`SIZE`] with a tenth of it kept for root, mounted.
struct Small(TempDir);

impl Small {
    fn new() -> Self {
        let place = directory();
        let (image, dir) = (place.path().join("image"), place.path().join("dir"));
        File::create(&image).and_then(|image| image.set_len(SIZE)).unwrap();
        fs::create_dir(&dir).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-m", "10"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &dir]));
        fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
        Self(place)
    }

    fn dir(&self) -> std::path::PathBuf {
        self.0.path().join("dir")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(self.dir(), UnmountFlags::DETACH);
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("an installed program");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

type Fill = fn(&Path) -> io::Result<()>;

/// Ways to take what there is.
const FILLS: [(&str, Fill); 6] = [
    ("writes", |dir| fill(&mut OpenOptions::new(), dir, 64 << 10)),
    ("large writes", |dir| fill(&mut OpenOptions::new(), dir, 1 << 20)),
    ("appends", |dir| fill(OpenOptions::new().append(true), dir, 64 << 10)),
    ("writes past the cache", |dir| {
        fill(OpenOptions::new().custom_flags(libc::O_DIRECT), dir, 64 << 10)
    }),
    ("fallocate", |dir| {
        let file = File::create(dir.join("file"))?;
        (0..SIZE >> 16)
            .try_for_each(|at| Ok(fallocate(&file, FallocateFlags::empty(), at << 16, 64 << 10)?))
    }),
    ("copy_file_range", |dir| {
        let source = File::create_new(dir.join("source"))?;
        source.write_all_at(&[7; 1 << 20], 0)?;
        let (source, file) = (File::open(dir.join("source"))?, File::create(dir.join("file"))?);
        let mut at = 0;
        while copy_file_range(&source, Some(&mut 0), &file, Some(&mut at), 1 << 20)? > 0 {}
        Ok(())
    }),
];

fn fill(options: &mut OpenOptions, dir: &Path, size: usize) -> io::Result<()> {
    let mut file = options.write(true).create(true).open(dir.join("file"))?;
    let bytes = vec![7; size + 4096];
    let aligned = bytes.as_ptr().align_offset(4096);
    loop {
        file.write_all(&bytes[aligned..aligned + size])?;
    }
}

/// What is left when each user in turn has taken what they get, and what is left when they cannot give any attribute room.
fn filled(fill: Fill, users: &[User], dir: &Path) -> String {
    let mut seen = Vec::new();
    for user in users {
        let own = dir.join(user.uid.to_string());
        user.does(|| fs::create_dir(&own)).unwrap();
        let errno = user.does(|| fill(&own)).map_err(|error| error.raw_os_error());
        user.does(|| fs::File::open(own.join("file")).and_then(|file| file.sync_all())).unwrap();
        let blocks = fs::metadata(own.join("file")).unwrap().blocks();
        // An attribute of this length has a block of its own.
        let small = user.does(|| {
            File::create(own.join("small"))?;
            Ok::<_, io::Error>(setxattr(
                own.join("small"),
                "user.x",
                &[7; 3000],
                XattrFlags::empty(),
            )?)
        });
        seen.push((user.uid, errno, blocks, small.map_err(|error| error.raw_os_error())));
    }
    format!("{seen:?}")
}

#[test]
fn ordinary_users_leave_it_and_root_gets_it() {
    let native = Small::new();
    for (name, fill) in FILLS {
        for users in [&[NOBODY, ROOT][..], &[ROOT]] {
            let expected = filled(fill, users, &native.dir());
            empty(&native.dir());
            for args in [
                &["--io-engine", "uring"][..],
                &["--io-engine", "threads", "--cache", "never"],
                &["--allow-direct-io"],
            ] {
                let (host, point) = (Small::new(), directory());
                let mount = Mount::serve(Path::new(FSRV), &host.dir(), point.path(), args).unwrap();
                assert_eq!(filled(fill, users, point.path()), expected, "{name} with {args:?}");
                mount.stop().unwrap();
            }
        }
    }
}

fn empty(dir: &Path) {
    for user in [NOBODY, ROOT] {
        let _ = fs::remove_dir_all(dir.join(user.uid.to_string()));
    }
    rustix::fs::syncfs(File::open(dir).unwrap()).unwrap();
}
