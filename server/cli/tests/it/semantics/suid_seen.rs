//! What a client believes of suid, sgid and file capabilities after a change took them.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, StatxFlags, XattrFlags, copy_file_range, fallocate, ftruncate,
    getxattr, setxattr, statx,
};

use rustix::io::Errno;

use super::user::{NOBODY, ROOT, STAFF};
use crate::served::Served;

/// Everything that decides how long attributes are kept, and who writes what.
const MANNERS: [&[&str]; 8] = [
    &["--cache", "auto"],
    &["--cache", "metadata"],
    &["--cache", "metadata", "--io-engine", "threads", "--inode-file-handles", "never"],
    &["--cache", "always"],
    &["--cache", "never"],
    &["--cache", "never", "--attr-timeout", "1000"],
    &["--cache", "auto", "--writeback"],
    &["--cache", "always", "--writeback"],
];

/// A program that prints the effective user id, and that is still one with zeros behind its end.
const PROGRAM: &str = "/usr/bin/id";

type Change = fn(&Path) -> io::Result<()>;

/// Changes of a program that leave it the same program.
const CHANGES: [(&str, Change); 13] = [
    ("write", |path| open(path)?.write_all_at(&first(path)?, 0)),
    ("a large write", |path| open(path)?.write_all_at(&fs::read(PROGRAM)?, 0)),
    ("append", |path| {
        use std::io::Write;
        OpenOptions::new().append(true).open(path)?.write_all(&[0; 100])
    }),
    ("O_DIRECT", |path| {
        let mut options = OpenOptions::new();
        let file = options.write(true).custom_flags(libc::O_DIRECT).open(path)?;
        file.write_all_at(&[0; 4096], (fs::metadata(PROGRAM)?.len() / 4096 + 1) * 4096)
    }),
    ("O_SYNC", |path| {
        let mut options = OpenOptions::new();
        let file = options.write(true).custom_flags(libc::O_SYNC).open(path)?;
        file.write_all_at(&first(path)?, 0)
    }),
    ("truncate by path", |path| {
        let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
        super::sys::truncate(&path, 1 << 20)
    }),
    ("ftruncate", |path| Ok(ftruncate(open(path)?, 1 << 20)?)),
    ("ftruncate to the same size", |path| {
        let file = open(path)?;
        let len = file.metadata()?.len();
        Ok(ftruncate(file, len)?)
    }),
    ("fallocate", |path| Ok(fallocate(open(path)?, FallocateFlags::empty(), 1 << 20, 4096)?)),
    ("fallocate behind the end", |path| {
        Ok(fallocate(open(path)?, FallocateFlags::KEEP_SIZE, 1 << 20, 4096)?)
    }),
    ("punch", |path| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(open(path)?, flags, 1 << 20, 4096)?)
    }),
    ("zero", |path| {
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(open(path)?, flags, 1 << 20, 4096)?)
    }),
    ("copy_file_range", |path| {
        let source = File::open(path.with_file_name("source"))?;
        Ok(copy_file_range(source, Some(&mut 0), open(path)?, Some(&mut 0), 5000).map(drop)?)
    }),
];

#[test]
fn what_a_change_took_is_gone_for_the_client_at_once() {
    let mut wrong = Vec::new();
    for manner in MANNERS {
        let served = Served::new(manner);
        let path = served.mounted().join("program");
        fs::copy(PROGRAM, served.mounted().join("source")).unwrap();
        for (change, act) in CHANGES {
            for mode in [0o4777, 0o2777, 0o6777] {
                new_program(&path, mode);
                let result = NOBODY.does(|| act(&path));
                // A stat that asks for more would find out that sizes and times are old, and with them the mode.
                let seen = (mode_of(&path), ids_of(&path));
                let host = mode_of(&served.backing().join("program"));
                let plain = format!("{} {}", NOBODY.uid, NOBODY.gid);
                if result.is_err() || seen != (0o777, plain) || host != 0o777 {
                    wrong.push(format!("{change} of {mode:o} with {manner:?}: {result:?} {seen:?}, {host:o} on the host"));
                }
                fs::remove_file(&path).unwrap();
            }
        }
        served.stop();
    }
    assert!(
        wrong.is_empty(),
        "{} wrong, among them {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(400)]
    );
}

#[test]
fn a_client_with_a_page_cache_knows_it_before_the_content_is_another() {
    for manner in [["--cache", "auto"], ["--cache", "always"]] {
        let served = Served::new(&manner);
        let path = served.mounted().join("program");
        fs::copy(PROGRAM, served.mounted().join("source")).unwrap();
        for (change, act) in CHANGES {
            // Truncation by itself answers the new mode; what goes past the cache is for the next question.
            if change == "O_DIRECT" {
                continue;
            }
            new_program(&path, 0o6777);
            NOBODY.does(|| act(&path)).unwrap();
            let flags = AtFlags::STATX_DONT_SYNC;
            let known = statx(CWD, &path, flags, StatxFlags::MODE).unwrap().stx_mode & 0o7777;
            assert_eq!(known, 0o777, "{change} with {manner:?}");
            fs::remove_file(&path).unwrap();
        }
        served.stop();
    }
}

#[test]
fn a_store_into_a_mapping_leaves_them_as_it_does_natively() {
    for manner in MANNERS {
        let served = Served::new(manner);
        let path = served.mounted().join("program");
        new_program(&path, 0o4777);
        NOBODY.does(|| {
            let file = open(&path).unwrap();
            let mut mapping = super::sys::Mapping::new(&file, 4096).unwrap();
            mapping.write(0, mapping.read(0));
            mapping.sync().unwrap();
        });
        let host = served.backing().join("program");
        assert_eq!((mode_of(&path), mode_of(&host)), (0o4777, 0o4777), "{manner:?}");
        served.stop();
    }
}

#[test]
fn what_the_host_takes_is_gone_at_once_and_what_it_gives_comes_with_new_attributes() {
    let served = Served::new(&["--cache", "metadata"]);
    let (path, host) = (served.mounted().join("program"), served.backing().join("program"));
    new_program(&path, 0o4777);
    fs::set_permissions(&host, Permissions::from_mode(0o777)).unwrap();
    assert_eq!((ids_of(&path), mode_of(&path)), ("65534 65534".into(), 0o777));
    fs::set_permissions(&host, Permissions::from_mode(0o4777)).unwrap();
    assert_eq!((ids_of(&path), mode_of(&path)), ("65534 65534".into(), 0o777));
    // Any change of the client's own brings them.
    fs::set_permissions(&path, Permissions::from_mode(0o4777)).unwrap();
    assert_eq!((ids_of(&path), mode_of(&path)), ("0 65534".into(), 0o4777));
    served.stop();
}

#[test]
fn a_chown_to_nobody_takes_them_from_no_file_that_its_caller_could_not_write() {
    let served = Served::new(&["--cache", "metadata"]);
    let (path, host) = (served.mounted().join("program"), served.backing().join("program"));
    new_program(&path, 0o4755);
    // Natively EPERM, which what a client's kernel sends before a write must not get.
    NOBODY.does(|| chown(&path, None, None)).unwrap();
    assert_eq!((mode_of(&path), mode_of(&host)), (0o4755, 0o4755));
    let by_root = open(&path).unwrap();
    NOBODY.does(|| chown(&path, None, None)).unwrap();
    assert_eq!((mode_of(&path), mode_of(&host)), (0o4755, 0o4755), "it is open, but not by them");
    drop(by_root);
    fs::set_permissions(&path, Permissions::from_mode(0o4757)).unwrap();
    NOBODY.does(|| {
        let open = open(&path).unwrap();
        chown(&path, None, None).unwrap();
        drop(open);
    });
    assert_eq!((mode_of(&path), mode_of(&host)), (0o757, 0o757));
    served.stop();
}

#[test]
fn file_capabilities_are_not_kept_by_the_client() {
    // CAP_NET_RAW, permitted and effective, as revision 2 has them.
    let words: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    let capability: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    for manner in MANNERS {
        let served = Served::new(manner);
        let path = served.mounted().join("program");
        for mode in [0o777, 0o4777] {
            for user in [NOBODY, ROOT] {
                new_program(&path, mode);
                let flags = XattrFlags::empty();
                setxattr(&path, "security.capability", &capability, flags).unwrap();
                assert_eq!(getxattr(&path, "security.capability", &mut [0; 64]), Ok(20));
                user.does(|| open(&path).unwrap().write_all_at(&first(&path).unwrap(), 0)).unwrap();
                let left = getxattr(&path, "security.capability", &mut [0; 64]);
                assert_eq!(left, Err(Errno::NODATA), "{mode:o} by {} with {manner:?}", user.uid);
                fs::remove_file(&path).unwrap();
            }
        }
        served.stop();
    }
}

/// Made, and looked at in every way that tells the client attributes.
fn new_program(path: &Path, mode: u32) {
    fs::copy(PROGRAM, path).unwrap();
    chown(path, Some(0), Some(STAFF)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
        entry.unwrap().metadata().unwrap();
    }
    assert_eq!(mode_of(path), mode);
}

/// The ids with which `path` runs when an ordinary user starts it.
fn ids_of(path: &Path) -> String {
    NOBODY.does(|| {
        ["-u", "-g"]
            .map(|which| {
                let output = Command::new(path).arg(which).output().unwrap();
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            })
            .join(" ")
    })
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn first(path: &Path) -> io::Result<[u8; 4]> {
    let mut bytes = [0; 4];
    File::open(path)?.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// As the client knows it, without asking for anything else.
fn mode_of(path: &Path) -> u32 {
    let stat = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MODE).unwrap();
    u32::from(stat.stx_mode) & 0o7777
}
