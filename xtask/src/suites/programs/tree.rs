//! A tree with a bit of everything, and its description.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::LIMIT;
use crate::program;

/// Makes the tree. All its times lie in the past, with nanoseconds.
pub(crate) fn make(root: &Path) -> Result<()> {
    fs::create_dir(root)?;
    files(root)?;
    special(root)?;
    attributes(root)?;
    set_times(root)
}

fn files(root: &Path) -> Result<()> {
    for number in 0..400u32 {
        let dir = root.join(format!("dir-{}/sub-{}", number % 9, number % 4));
        fs::create_dir_all(&dir)?;
        let file = dir.join(format!("file-{number}"));
        fs::write(&file, number.to_le_bytes().repeat((number * number) as usize % 30_000))?;
        fs::set_permissions(&file, Permissions::from_mode(number % 0o1000))?;
    }
    let sparse = File::create(root.join("sparse"))?;
    sparse.write_all_at(b"in the middle", 5 << 20)?;
    sparse.set_len(9 << 20)?;
    fs::write(root.join("n".repeat(255)), "the longest name")?;
    fs::write(root.join("empty"), "")?;
    Ok(())
}

fn special(root: &Path) -> Result<()> {
    symlink("dir-1/sub-2", root.join("link"))?;
    symlink("nowhere", root.join("dangling"))?;
    symlink("x".repeat(4000), root.join("long-link"))?;
    fs::hard_link(root.join("empty"), root.join("hard-link"))?;
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from(0o640), 0)?;
    mknodat(CWD, root.join("char"), FileType::CharacterDevice, Mode::from(0o600), makedev(1, 3))?;
    mknodat(CWD, root.join("block"), FileType::BlockDevice, Mode::from(0o600), makedev(7, 300))?;
    Ok(())
}

fn attributes(root: &Path) -> Result<()> {
    chown(root.join("dir-2"), Some(1234), Some(4321))?;
    lchown(root.join("dangling"), Some(77), Some(88))?;
    chown(root.join("sparse"), Some(5), Some(6))?;
    fs::set_permissions(root.join("sparse"), Permissions::from_mode(0o6755))?;
    fs::set_permissions(root.join("dir-3"), Permissions::from_mode(0o3777))?;

    let check = |program: &str, args: &[&str]| {
        program::check(Command::new(program).args(args).current_dir(root), LIMIT)
    };
    check("setfattr", &["-n", "user.colour", "-v", "blue", "sparse"])?;
    check("setfattr", &["-n", "trusted.colour", "-v", "red", "dir-4"])?;
    check("setfattr", &["-n", "user.long", "-v", &"v".repeat(3000), "dir-5"])?;
    check("setfacl", &["-m", "user:1234:rwx,group:4321:r", "dir-6", "empty"])?;
    check("setfacl", &["-d", "-m", "user:1234:rw", "dir-6"])?;
    Ok(())
}

fn set_times(root: &Path) -> Result<()> {
    let find =
        ["-depth", "-exec", "touch", "--no-dereference", "--date=@1000000000.123456789", "{}", "+"];
    program::check(Command::new("find").arg(".").args(find).current_dir(root), LIMIT)?;
    let old = SystemTime::UNIX_EPOCH + Duration::new(1, 1);
    File::open(root.join("empty"))?.set_modified(old)?;
    Ok(())
}

/// One line for each file: what `stat`, `getfattr` and a checksum say.
pub(crate) fn describe(root: &Path) -> Result<String> {
    let shell = |script: &str| {
        program::check(Command::new("sh").args(["-c", script]).current_dir(root), LIMIT)
    };
    let stat =
        shell("find . -print0 | sort -z | xargs -0 stat --format='%n %F %a %u %g %h %t:%T %y'")?;
    let sizes = shell("find . ! -type d -print0 | sort -z | xargs -0 stat --format='%n %s'")?;
    let links = shell("find . -type l -print0 | sort -z | xargs -0 -n1 readlink")?;
    let attributes = shell("getfattr --recursive --physical --dump --match=- . | sort")?;
    let sums = shell("find . -type f -print0 | sort -z | xargs -0 sha256sum")?;
    let inodes =
        fs::metadata(root.join("empty"))?.ino() == fs::metadata(root.join("hard-link"))?.ino();
    Ok(format!("{stat}{sizes}{links}{attributes}{sums}hard links share an inode: {inodes}"))
}
