//! Flags that files have of their filesystem: `lsattr` and `chattr`.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;

use super::alike;
use super::sys;
use super::user::{NOBODY, ROOT, User};
use crate::served::Served;

/// What a program said, without its place.
fn said(user: User, dir: &Path, program: &str, words: &[&str]) -> String {
    user.does(|| {
        let output = Command::new(program).args(words).current_dir(dir).output().unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        format!("{program} {words:?}: {} {out} {err}", output.status)
    })
}

#[test]
fn flags_are_set_and_listed_as_natively() {
    alike(|dir| {
        fs::write(dir.join("file"), "content").unwrap();
        fs::create_dir(dir.join("dir")).unwrap();
        std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
        std::os::unix::fs::chown(dir.join("file"), Some(NOBODY.uid), Some(NOBODY.gid)).unwrap();
        let mut seen = Vec::new();
        for flags in ["+A", "+d", "-A", "+i", "+a", "-i", "+S", "=d", "+j", "-p 7"] {
            for user in [NOBODY, ROOT] {
                for name in ["file", "dir", "link"] {
                    let words: Vec<&str> = flags.split(' ').chain([name]).collect();
                    seen.push(said(user, dir, "chattr", &words));
                    seen.push(said(user, dir, "lsattr", &["-d", name]));
                    seen.push(said(user, dir, "lsattr", &["-d", "-p", name]));
                }
            }
        }
        seen.push(said(ROOT, dir, "chattr", &["=", "file", "dir"]));
        seen
    });
}

#[test]
fn an_immutable_file_stays_as_it_is_and_one_to_append_to_grows() {
    alike(|dir| {
        let path = dir.join("file");
        fs::write(&path, "content").unwrap();
        let mut seen = vec![said(ROOT, dir, "chattr", &["+i", "file"])];
        seen.push(format!("{:?} {:?}", fs::write(&path, "x").is_err(), fs::remove_file(&path)));
        seen.push(said(ROOT, dir, "chattr", &["-i", "+a", "file"]));
        let mut options = File::options();
        let appended = options.append(true).open(&path).and_then(|mut file| file.write_all(b"+"));
        seen.push(format!("{appended:?} {:?}", fs::write(&path, "x").is_err()));
        seen.push(said(ROOT, dir, "chattr", &["-a", "file"]));
        seen.push(format!("{:?} {:?}", fs::read_to_string(&path), fs::remove_file(&path)));
        seen
    });
}

#[test]
fn flags_can_be_read_where_nothing_can_be_changed() {
    let served = Served::new(&["--readonly"]);
    fs::write(served.backing().join("file"), "").unwrap();
    let listed = said(ROOT, served.mounted(), "lsattr", &["-d", "file"]);
    assert_eq!(listed, said(ROOT, served.backing(), "lsattr", &["-d", "file"]));
    let changed = said(ROOT, served.mounted(), "chattr", &["+A", "file"]);
    assert!(changed.contains("Read-only file system"), "{changed}");
    served.stop();
}

#[test]
fn other_commands_are_not_for_files() {
    let served = Served::new(&[]);
    fs::write(served.backing().join("file"), "").unwrap();
    let file = File::open(served.mounted().join("file")).unwrap();
    assert_eq!(rustix::termios::tcgetattr(&file).map(drop), Err(Errno::NOTTY));
    assert_eq!(rustix::fs::ioctl_blksszget(&file).map(drop), Err(Errno::NOTTY));
    drop(file);
    served.stop();
}

#[test]
fn fs_verity_is_there_as_natively() {
    alike(|dir| {
        let path = dir.join("file");
        fs::write(&path, vec![1; 20_000]).unwrap();
        let file = File::open(&path).unwrap();
        let before = sys::measure_verity(&file).map_err(|error| error.raw_os_error());
        let enabled = sys::enable_verity(&file).map_err(|error| error.raw_os_error());
        let after = sys::measure_verity(&file).map_err(|error| error.raw_os_error());
        (before, enabled, after, fs::write(&path, "x").is_ok())
    });
}
