//! Opening, appending, executing, and going around the cache.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::fs::{Mode, OFlags, open};

use super::sys::{Aligned, Mapping};
use super::{alike, alike_with};
use crate::mount::Mount;
use crate::served::{FSRV, Served, directory};

const RECORDS: usize = 300;

#[test]
fn appenders_on_two_mounts_lose_nothing() {
    for cache in ["auto", "never"] {
        let first = Served::new(&["--cache", cache]);
        let mountpoint = directory();
        let second =
            Mount::serve(Path::new(FSRV), first.backing(), mountpoint.path(), &["--cache", cache])
                .expect("a second mount");
        File::create(first.backing().join("log")).unwrap();
        thread::scope(|scope| {
            for (byte, dir) in [(b'a', first.mounted()), (b'b', mountpoint.path())] {
                scope.spawn(move || append(&dir.join("log"), byte));
            }
            scope.spawn(|| append(&first.backing().join("log"), b'c'));
        });
        let log = fs::read(first.backing().join("log")).unwrap();
        for byte in *b"abc" {
            let records = log.chunks(8).filter(|record| **record == [byte; 8]);
            assert_eq!(records.count(), RECORDS, "records of {} with {cache}", byte as char);
        }
        second.stop().expect("a clean unmount");
        first.stop();
    }
}

fn append(path: &Path, byte: u8) {
    let mut file = File::options().append(true).open(path).unwrap();
    for _ in 0..RECORDS {
        file.write_all(&[byte; 8]).unwrap();
    }
}

#[test]
fn an_append_goes_to_the_end_wherever_the_file_was_read() {
    alike(|dir| {
        let path = dir.join("file");
        fs::write(&path, "start").unwrap();
        let mut file = File::options().append(true).read(true).open(&path).unwrap();
        let mut start = [0; 2];
        file.read_exact_at(&mut start, 0).unwrap();
        file.write_all(b"-one").unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(3).unwrap();
        file.write_all(b"-two").unwrap();
        // pwrite appends as well.
        file.write_all_at(b"-three", 0).unwrap();
        fs::read_to_string(&path).unwrap()
    });
}

#[test]
fn direct_io_takes_what_the_host_takes() {
    alike_with(&["--allow-direct-io"], |dir| {
        let path = dir.join("file");
        fs::write(&path, vec![1; 3 * 4096 + 100]).unwrap();
        let mut options = File::options();
        let options = options.read(true).write(true).custom_flags(libc::O_DIRECT);
        let file = options.open(&path).unwrap();
        let mut memory = Box::new(Aligned([2; 8192]));
        let mut seen = Vec::new();
        for (from, len, at) in
            [(0, 4096, 0), (0, 8192, 4096), (0, 4096, 3 * 4096), (0, 4096, 1 << 20), (0, 512, 512)]
        {
            let bytes = &mut memory.0[from..from + len];
            seen.push(file.read_at(bytes, at).map_err(|error| error.raw_os_error()));
            // What is behind the bytes that were read is nobody's affair.
            bytes.fill(3);
            seen.push(file.write_at(bytes, at).map_err(|error| error.raw_os_error()));
        }
        for (len, at) in [(100, 0), (4096, 7), (1, 4095)] {
            let bytes = &mut memory.0[..len];
            seen.push(file.read_at(bytes, at).map_err(|error| error.raw_os_error()));
            seen.push(file.write_at(bytes, at).map_err(|error| error.raw_os_error()));
        }
        (seen, fs::read(&path).unwrap())
    });
}

#[test]
fn direct_io_that_is_not_allowed_is_done_by_the_host_cache() {
    for policy in ["auto", "never"] {
        let served = Served::new(&["--cache", policy]);
        let path = served.mounted().join("file");
        fs::write(&path, vec![1; 10_000]).unwrap();
        let mut options = File::options();
        let options = options.read(true).write(true).custom_flags(libc::O_DIRECT);
        let file = options.open(&path).expect("O_DIRECT is accepted");
        file.write_all_at(b"unaligned", 7).expect("any alignment will do");
        let mut bytes = [0; 9];
        file.read_exact_at(&mut bytes, 7).unwrap();
        assert_eq!(&bytes, b"unaligned");
        assert_eq!(fs::read(served.backing().join("file")).unwrap(), fs::read(&path).unwrap());
        drop(file);
        served.stop();
    }
}

#[test]
fn programs_and_scripts_run_from_the_mount() {
    alike(|dir| {
        fs::copy("/bin/true", dir.join("true")).unwrap();
        fs::write(dir.join("script"), "#!/bin/sh\necho \"$0\" | wc -l; exit 3\n").unwrap();
        fs::set_permissions(dir.join("script"), Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.join("data"), "no program").unwrap();
        ["true", "script", "data"].map(|name| {
            let output = Command::new(dir.join(name)).output();
            output
                .map(|output| (output.status.code(), output.stdout))
                .map_err(|error| error.raw_os_error())
        })
    });
}

#[test]
fn a_running_program_cannot_be_written_and_a_written_one_cannot_run() {
    alike(|dir| {
        let path = dir.join("sleep");
        fs::copy("/bin/sleep", &path).unwrap();
        let mut running = Command::new(&path).arg("60").spawn().unwrap();
        let write = File::options().write(true).open(&path).map(drop);
        running.kill().unwrap();
        running.wait().unwrap();
        let open = File::options().write(true).open(&path).unwrap();
        let run = Command::new(&path).arg("0").status().map(|status| status.code());
        drop(open);
        (write.map_err(|error| error.raw_os_error()), run.map_err(|error| error.raw_os_error()))
    });
}

#[test]
fn opening_answers_as_natively() {
    alike(|dir| {
        fs::write(dir.join("file"), "content").unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.join("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        let flags = [
            OFlags::RDONLY,
            OFlags::WRONLY,
            OFlags::RDWR | OFlags::TRUNC,
            OFlags::RDONLY | OFlags::DIRECTORY,
            OFlags::RDWR | OFlags::CREATE,
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            OFlags::RDONLY | OFlags::NOFOLLOW,
            OFlags::PATH | OFlags::NOFOLLOW,
            OFlags::WRONLY | OFlags::APPEND,
            OFlags::RDWR | OFlags::SYNC,
            OFlags::RDWR | OFlags::NOATIME,
        ];
        let mut seen = Vec::new();
        for name in ["file", "sub", "link", "fifo", "missing"] {
            for flags in flags {
                let flags = flags | OFlags::NONBLOCK;
                let result = open(dir.join(name), flags, Mode::RWXU).map(|file| {
                    let kept = rustix::fs::fcntl_getfl(&file).unwrap();
                    (kept & !OFlags::LARGEFILE, rustix::fs::fstat(&file).unwrap().st_size)
                });
                let result =
                    result.map(|(kept, size)| (kept, if name == "sub" { 0 } else { size }));
                seen.push(format!("{name} {flags:?} {result:?}"));
                let _ = fs::remove_file(dir.join("missing"));
            }
        }
        seen
    });
}

#[test]
fn a_running_program_is_not_emptied_by_an_open_that_fails() {
    alike(|dir| {
        let path = dir.join("sleep");
        fs::copy("/bin/sleep", &path).unwrap();
        let mut running = Command::new(&path).arg("60").spawn().unwrap();
        let emptied = open(&path, OFlags::RDONLY | OFlags::TRUNC, Mode::empty()).map(drop);
        running.kill().unwrap();
        running.wait().unwrap();
        (emptied, fs::metadata(&path).unwrap().len())
    });
}

#[test]
fn a_page_of_a_mapping_has_its_place_in_a_file_that_is_appended_to() {
    alike(|dir| {
        let path = dir.join("file");
        fs::write(&path, vec![b'a'; 8192]).unwrap();
        let file = File::options().read(true).append(true).open(&path).unwrap();
        let mut mapping = Mapping::new(&file, 8192).unwrap();
        mapping.write(0, b'b');
        mapping.sync().unwrap();
        (fs::metadata(&path).unwrap().len(), fs::read(&path).unwrap()[..8].to_vec())
    });
}
