//! One of the two directories, and the files held open there.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{
    Access, AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Stat,
    Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
};
use rustix::io::{Errno, Result};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::op::{Kind, Name, Op, Place, SLOTS, Step, Time, User};

pub(crate) struct Side {
    root: PathBuf,
    open: [Option<OwnedFd>; SLOTS],
    /// Whether a file may have blocks that nobody wrote. Such a block is a hole or data as the page cache has it.
    preallocated: bool,
    /// How long the clock of files stands still.
    tick: Duration,
}

fn is_chown_of_nothing(op: &Op) -> bool {
    matches!(op, Op::Chown { uid: None, gid: None, .. })
}

impl Side {
    pub(crate) fn new(root: &Path, tick: Duration) -> Self {
        Self { root: root.into(), open: Default::default(), preallocated: false, tick }
    }

    /// Does one step, and says what a program sees of it: the answer, and which times changed.
    pub(crate) fn apply(&mut self, step: &Step) -> String {
        if step.user == User::Ordinary && is_chown_of_nothing(&step.op) {
            // By whoever is not the owner this is EPERM natively if suid is set, and no error on a mount: a client's
            // kernel sends the same before such a user writes.
            return "any".into();
        }
        let before = self.times(&step.op);
        if !before.is_empty() {
            sleep(self.tick);
        }
        let answer = as_user(step.user, || self.perform(&step.op));
        let seen = match answer {
            Ok(seen) => seen,
            // Filesystems try and undo: what a failed operation touched is their affair.
            Err(errno) => {
                self.touch_what_failed(&step.op, errno);
                return format!("{errno:?}");
            }
        };
        let after = self.times(&step.op);
        let changed: Vec<_> =
            before.iter().zip(&after).map(|(before, after)| changes(before, after)).collect();
        format!("{seen} {changed:?}")
    }

    /// Renaming onto a full directory fails, and yet with a whiteout ext4 has changed the times of the source's
    /// directory. A client's kernel that was told of an error keeps the times it knew: change them once more.
    fn touch_what_failed(&self, op: &Op, errno: Errno) {
        let Op::Rename { from, flags: RenameFlags::WHITEOUT, .. } = op else { return };
        let path = self.path(from);
        let Some(parent) = path.parent().filter(|_| errno == Errno::NOTEMPTY) else { return };
        let times = Timestamps {
            last_access: timespec(Time::Omit),
            last_modification: timespec(Time::Now),
        };
        rustix::fs::utimensat(CWD, parent, &times, AtFlags::empty())
            .expect("root may change the times of every directory");
    }

    fn path(&self, place: &Place) -> PathBuf {
        let name = |name: &Name| match name {
            Name::A => OsString::from("a"),
            Name::B => OsString::from("b"),
            Name::C => OsString::from("c"),
            Name::NotUtf8 => OsString::from_vec(vec![0xff, 0x01, 0xfe]),
            Name::Longest => OsString::from("n".repeat(255)),
            Name::TooLong => OsString::from("n".repeat(256)),
        };
        self.root.join(place.iter().map(name).collect::<PathBuf>())
    }

    fn slot(&self, slot: usize) -> Result<&OwnedFd> {
        self.open[slot].as_ref().ok_or(Errno::BADF)
    }

    fn perform(&mut self, op: &Op) -> Result<String> {
        match op {
            Op::Open { slot, at, flags, mode } => {
                let path = self.path(at);
                // Whether devices work is an option of the mount, no property of the server.
                if rustix::fs::stat(&path).is_ok_and(|stat| is(&stat, FileType::CharacterDevice)) {
                    return Ok("a device".into());
                }
                let flags = *flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
                self.open[*slot] = Some(rustix::fs::open(&path, flags, Mode::from(*mode))?);
            }
            Op::Tmpfile { slot, at, mode } => {
                let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
                self.open[*slot] = Some(rustix::fs::open(self.path(at), flags, Mode::from(*mode))?);
            }
            Op::LinkOpen { slot, to } => {
                rustix::fs::linkat(self.slot(*slot)?, "", CWD, self.path(to), AtFlags::EMPTY_PATH)?;
            }
            Op::Close { slot } => drop(self.open[*slot].take()),
            Op::Mkdir { at, mode } => rustix::fs::mkdir(self.path(at), Mode::from(*mode))?,
            Op::Rmdir { at } => rustix::fs::rmdir(self.path(at))?,
            Op::Unlink { at } => rustix::fs::unlink(self.path(at))?,
            Op::Rename { from, to, flags } => {
                rustix::fs::renameat_with(CWD, self.path(from), CWD, self.path(to), *flags)?;
            }
            Op::Link { from, to } => rustix::fs::link(self.path(from), self.path(to))?,
            Op::Symlink { target, at } => rustix::fs::symlink(*target, self.path(at))?,
            Op::Readlink { at } => {
                return Ok(format!("{:?}", rustix::fs::readlink(self.path(at), Vec::new())?));
            }
            Op::Mknod { at, kind, mode } => mknod(&self.path(at), *kind, *mode)?,
            Op::ReadDir { at } => return read_dir(&self.path(at)),
            Op::StatFs { at } => {
                let found = rustix::fs::statvfs(self.path(at))?;
                return Ok(format!("{} {} {}", found.f_namemax, found.f_frsize, found.f_blocks));
            }
            Op::DropCaches { pages } => {
                let what = if *pages { "3" } else { "2" };
                fs::write("/proc/sys/vm/drop_caches", what).map_err(errno)?;
            }
            _ if op.slots().is_empty() => return self.perform_on_attributes(op),
            _ => return self.perform_on_open_file(op),
        }
        Ok(String::from("done"))
    }

    fn perform_on_open_file(&mut self, op: &Op) -> Result<String> {
        match op {
            Op::Read { slot, offset, len } => {
                let mut bytes = vec![0; *len];
                let count = rustix::io::pread(self.slot(*slot)?, &mut bytes, *offset)?;
                return Ok(format!(
                    "{count} bytes, digest {:x}",
                    super::tree::digest(&bytes[..count])
                ));
            }
            Op::Write { slot, offset, len, fill } => {
                return Ok(
                    rustix::io::pwrite(self.slot(*slot)?, &vec![*fill; *len], *offset)?.to_string()
                );
            }
            Op::Append { slot, len, fill } => {
                return Ok(rustix::io::write(self.slot(*slot)?, &vec![*fill; *len])?.to_string());
            }
            Op::SetLen { slot, size } => rustix::fs::ftruncate(self.slot(*slot)?, *size)?,
            Op::Fallocate { slot, flags, offset, len } => {
                rustix::fs::fallocate(self.slot(*slot)?, *flags, *offset, *len)?;
                self.preallocated |= !flags.contains(FallocateFlags::PUNCH_HOLE);
            }
            Op::Seek { slot, offset, hole } => {
                // In a directory each filesystem counts as it likes.
                if self.preallocated
                    || is(&rustix::fs::fstat(self.slot(*slot)?)?, FileType::Directory)
                {
                    return Ok("depends".into());
                }
                let whence = if *hole { SeekFrom::Hole(*offset) } else { SeekFrom::Data(*offset) };
                return Ok(rustix::fs::seek(self.slot(*slot)?, whence)?.to_string());
            }
            Op::Copy { from, to, offset, target, len } => {
                let (from, to) = (self.slot(*from)?, self.slot(*to)?);
                let (mut offset, mut target) = (*offset, *target);
                let count = rustix::fs::copy_file_range(
                    from,
                    Some(&mut offset),
                    to,
                    Some(&mut target),
                    *len,
                )?;
                return Ok(count.to_string());
            }
            Op::Sync { slot } => rustix::fs::fsync(self.slot(*slot)?)?,
            Op::Fstat { slot } => return Ok(show(&rustix::fs::fstat(self.slot(*slot)?)?)),
            Op::Fchmod { slot, mode } => rustix::fs::fchmod(self.slot(*slot)?, Mode::from(*mode))?,
            _ => unreachable!("{op:?} needs no open file"),
        }
        Ok(String::from("done"))
    }

    fn perform_on_attributes(&self, op: &Op) -> Result<String> {
        match op {
            Op::Chmod { at, mode } => rustix::fs::chmod(self.path(at), Mode::from(*mode))?,
            Op::Chown { at, uid, gid, follow } => {
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                rustix::fs::chownat(CWD, self.path(at), uid, gid, follow_flags(*follow))?;
            }
            Op::Utimens { at, atime, mtime } => {
                let times = Timestamps {
                    last_access: timespec(*atime),
                    last_modification: timespec(*mtime),
                };
                rustix::fs::utimensat(CWD, self.path(at), &times, AtFlags::SYMLINK_NOFOLLOW)?;
                let stat = rustix::fs::lstat(self.path(at))?;
                let seen = |time, sec, nsec| {
                    if matches!(time, Time::At(..)) { (sec, nsec) } else { (0, 0) }
                };
                let atime = seen(*atime, stat.st_atime, stat.st_atime_nsec);
                return Ok(format!(
                    "{atime:?} {:?}",
                    seen(*mtime, stat.st_mtime, stat.st_mtime_nsec)
                ));
            }
            Op::Stat { at, follow } => {
                return Ok(show(&rustix::fs::statat(CWD, self.path(at), follow_flags(*follow))?));
            }
            Op::Access { at, mode } => {
                rustix::fs::accessat(
                    CWD,
                    self.path(at),
                    Access::from_bits_retain(*mode),
                    AtFlags::empty(),
                )?;
            }
            Op::SetXattr { at, name, len, flags } => {
                rustix::fs::lsetxattr(self.path(at), *name, &vec![b'v'; *len], *flags)?;
            }
            Op::GetXattr { at, name } => {
                let mut value = vec![0; 65_536];
                let probed = rustix::fs::lgetxattr_query(self.path(at), *name)?;
                let count = rustix::fs::lgetxattr(self.path(at), *name, &mut value[..])?;
                let small = rustix::fs::lgetxattr(self.path(at), *name, &mut value[..1]);
                return Ok(format!("{probed} {count} {small:?}"));
            }
            Op::RemoveXattr { at, name } => rustix::fs::lremovexattr(self.path(at), *name)?,
            Op::ListXattr { at } => {
                return Ok(format!("{:?}", super::tree::xattr_names(&self.path(at))?));
            }
            _ => unreachable!("{op:?} is done elsewhere"),
        }
        Ok(String::from("done"))
    }

    /// Everything `op` names, and the directories that hold it.
    fn times(&self, op: &Op) -> Vec<Option<Times>> {
        // The client's kernel keeps a pipe to itself: no server hears of what is written into it.
        let stored = |stat: &Stat| !is(stat, FileType::Fifo);
        let open = op.slots().into_iter().map(|slot| {
            rustix::fs::fstat(self.slot(slot)?)
                .and_then(|stat| stored(&stat).then_some(stat).ok_or(Errno::SPIPE))
        });
        let named = op.places().into_iter().flat_map(|place| {
            let path = self.path(place);
            [rustix::fs::lstat(path.parent().unwrap_or(&self.root)), rustix::fs::lstat(&path)]
        });
        open.chain(named).map(|stat| stat.ok().map(Times::of)).collect()
    }
}

/// How long two changes of a file in `dir` may have the same time. Since Linux 6.13 one that follows a look has another;
/// before, the clock goes on with the kernel's ticks.
pub(crate) fn tick(dir: &Path) -> Result<Duration> {
    let file = dir.join("clock");
    let changes = || {
        fs::write(&file, "changed").map_err(errno)?;
        rustix::fs::stat(&file).map(|stat| (stat.st_ctime, stat.st_ctime_nsec))
    };
    let is_fine = changes()? != changes()? && changes()? != changes()?;
    fs::remove_file(&file).map_err(errno)?;
    Ok(if is_fine { Duration::ZERO } else { Duration::from_millis(10) })
}

/// An inode, and when it changed.
struct Times {
    ino: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Times {
    fn of(stat: Stat) -> Self {
        Self {
            ino: stat.st_ino,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }
}

impl Op {
    fn slots(&self) -> Vec<usize> {
        match *self {
            Self::Read { slot, .. }
            | Self::Write { slot, .. }
            | Self::Append { slot, .. }
            | Self::SetLen { slot, .. }
            | Self::Fallocate { slot, .. }
            | Self::Seek { slot, .. }
            | Self::Sync { slot }
            | Self::Fstat { slot }
            | Self::Fchmod { slot, .. }
            | Self::LinkOpen { slot, .. } => vec![slot],
            Self::Copy { from, to, .. } => vec![from, to],
            _ => Vec::new(),
        }
    }

    fn places(&self) -> Vec<&Place> {
        match self {
            Self::Rename { from, to, .. } | Self::Link { from, to } => vec![from, to],
            Self::LinkOpen { to: at, .. }
            | Self::Open { at, .. }
            | Self::Tmpfile { at, .. }
            | Self::Mkdir { at, .. }
            | Self::Rmdir { at }
            | Self::Unlink { at }
            | Self::Symlink { at, .. }
            | Self::Mknod { at, .. }
            | Self::Chmod { at, .. }
            | Self::Chown { at, .. }
            | Self::Utimens { at, .. }
            | Self::SetXattr { at, .. }
            | Self::RemoveXattr { at, .. } => vec![at],
            _ => Vec::new(),
        }
    }
}

/// Which times an operation changed, as a word.
fn changes(before: &Option<Times>, after: &Option<Times>) -> &'static str {
    match (before, after) {
        (None, None) => "missing",
        (None, Some(_)) => "new",
        (Some(_), None) => "gone",
        // The clock ticks too seldom to tell one inode's times from another's.
        (Some(before), Some(after)) if before.ino != after.ino => "another",
        (Some(before), Some(after)) => {
            match (before.mtime != after.mtime, before.ctime != after.ctime) {
                (false, false) => "same",
                (true, false) => "mtime",
                (false, true) => "ctime",
                (true, true) => "mtime and ctime",
            }
        }
    }
}

/// Runs `action` as `user`. The saved user id stays root's, which is the way back.
fn as_user<T>(user: User, action: impl FnOnce() -> T) -> T {
    let become_user = |uid: u32, groups: &[Gid]| -> Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
        set_thread_groups(groups)?;
        set_thread_res_gid(gid, gid, Gid::ROOT)?;
        set_thread_res_uid(uid, uid, Uid::ROOT)
    };
    if user == User::Root {
        return action();
    }
    become_user(1001, &[Gid::from_raw(1003)]).expect("these tests run as root");
    let result = action();
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).expect("the way back to root");
    become_user(0, &[]).expect("root's groups");
    result
}

fn mknod(path: &Path, kind: Kind, mode: u32) -> Result<()> {
    let kind = match kind {
        Kind::File => FileType::RegularFile,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::Device => FileType::CharacterDevice,
    };
    let device = if kind == FileType::CharacterDevice { rustix::fs::makedev(60, 7) } else { 0 };
    rustix::fs::mknodat(CWD, path, kind, Mode::from(mode), device)
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn read_dir(path: &Path) -> Result<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(path).map_err(errno)? {
        let entry = entry.map_err(errno)?;
        let kind = entry.file_type().map_err(errno)?;
        names.insert(format!(
            "{:?} {kind:?}",
            entry.file_name().as_bytes().escape_ascii().to_string()
        ));
    }
    Ok(format!("{names:?}"))
}

fn follow_flags(follow: bool) -> AtFlags {
    if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW }
}

fn timespec(time: Time) -> Timespec {
    match time {
        Time::At(tv_sec, nsec) => Timespec { tv_sec, tv_nsec: nsec.into() },
        Time::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Time::Omit => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    }
}

fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

/// What must be the same on both sides. A directory's size is its filesystem's affair.
fn show(stat: &Stat) -> String {
    let size = if is(stat, FileType::Directory) { 0 } else { stat.st_size };
    format!(
        "mode {:o} {}:{} nlink {} size {size} rdev {}",
        stat.st_mode, stat.st_uid, stat.st_gid, stat.st_nlink, stat.st_rdev
    )
}
