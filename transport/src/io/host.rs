//! Which filesystem of the host a file is on, found without asking that filesystem: one that hangs does not answer.

use std::{
    fs,
    os::{
        fd::AsFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::PathBuf,
};

use rustix::fs::{AtFlags, StatxFlags, statx};

/// The mount that a file of the host is on, as the kernel knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostMount {
    kind: Kind,
    /// Where it is mounted, for people.
    point: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Local,
    /// A process of this machine, or of the machine that this one is a guest of.
    Fuse,
    /// Another machine, or whoever mounts on demand.
    Remote,
}

impl HostMount {
    /// The mount of `file`. One that the kernel does not tell of is taken for a FUSE filesystem.
    pub fn of(file: impl AsFd) -> Self {
        by_statmount(&file)
            .or_else(|| by_mountinfo(&file))
            .unwrap_or(Self { kind: Kind::Fuse, point: None })
    }

    /// Whether calls on its files may wait for another machine or process, however quick they were so far: those take
    /// [`super::Cost::waits`].
    pub fn may_wait(&self) -> bool {
        self.kind != Kind::Local
    }

    /// Whether it is a FUSE filesystem, virtio-fs among them.
    pub fn is_fuse(&self) -> bool {
        self.kind == Kind::Fuse
    }

    /// Where it is mounted, for people.
    pub fn point(&self) -> Option<&PathBuf> {
        self.point.as_ref()
    }
}

impl Kind {
    /// By `f_type` of `statfs(2)`.
    fn of_magic(magic: u64) -> Self {
        const FUSE: u64 = 0x6573_5546;
        const OTHERS: [u64; 15] = [
            0x6969,      // NFS
            0x517b,      // SMB
            0xfe53_4d42, // SMB2
            0xff53_4d42, // CIFS
            0x00c3_6400, // Ceph
            0x0102_1997, // 9P
            0x5346_414f, // AFS
            0x6b41_4653, // AFS of the kernel
            0x0187,      // autofs
            0x7375_7245, // Coda
            0x0bd0_0bd0, // Lustre
            0x0116_1970, // GFS2
            0x7461_636f, // OCFS2
            0x2003_0528, // OrangeFS
            0x786f_4256, // Shared folders of VirtualBox
        ];
        match magic {
            FUSE => Self::Fuse,
            magic if OTHERS.contains(&magic) => Self::Remote,
            _ => Self::Local,
        }
    }

    /// By the name that `mount(8)` knows it by.
    fn of_name(name: &[u8]) -> Self {
        const OTHERS: [&[u8]; 14] = [
            b"nfs", b"nfs4", b"cifs", b"smb3", b"ceph", b"9p", b"afs", b"autofs", b"coda",
            b"lustre", b"gfs2", b"ocfs2", b"pvfs2", b"vboxsf",
        ];
        match name {
            b"fuse" | b"fuseblk" | b"virtiofs" => Self::Fuse,
            name if name.starts_with(b"fuse.") => Self::Fuse,
            name if OTHERS.contains(&name) => Self::Remote,
            _ => Self::Local,
        }
    }
}

/// Closes a file of another machine or process. It is asked something else first: what waits for that ends with the
/// process, while the kernel lets nothing end a FUSE filesystem's last word on a file (FUSE_FLUSH).
pub fn close_remote(file: impl AsFd) {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    let _ = statx(&file, c"", flags, StatxFlags::BASIC_STATS);
}

/// STATX_MNT_ID_UNIQUE of Linux 6.8, which has `statmount(2)` too.
const MNT_ID_UNIQUE: u32 = 0x4000;

fn mount_id(file: impl AsFd, mask: StatxFlags) -> Option<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(file, c"", flags, mask).ok()?;
    (stat.stx_mask & mask.bits() != 0).then_some(stat.stx_mnt_id)
}

/// `struct mnt_id_req`.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mnt_id: u64,
    param: u64,
}

/// `struct statmount`, with room for the one string that is asked for.
#[repr(C)]
struct Answer {
    size: u32,
    mnt_opts: u32,
    mask: u64,
    sb_dev: [u32; 2],
    sb_magic: u64,
    between: [u8; 76],
    mnt_point: u32,
    rest: [u8; 400],
    strings: [u8; 4096],
}

const _: () = assert!(std::mem::offset_of!(Answer, mnt_point) == 108);
const _: () = assert!(std::mem::offset_of!(Answer, strings) == 512);

const SYS_STATMOUNT: libc::c_long = 457;
const STATMOUNT_SB_BASIC: u64 = 1;
const STATMOUNT_MNT_POINT: u64 = 0x10;

/// `None` on older kernels, where the call is refused, and for a mount that was detached.
fn by_statmount(file: impl AsFd) -> Option<HostMount> {
    let mnt_id = mount_id(file, StatxFlags::from_bits_retain(MNT_ID_UNIQUE))?;
    let param = STATMOUNT_SB_BASIC | STATMOUNT_MNT_POINT;
    let answer = statmount(mnt_id, param).or_else(|| statmount(mnt_id, STATMOUNT_SB_BASIC))?;
    let point = (answer.mask & STATMOUNT_MNT_POINT != 0).then(|| {
        let strings = answer.strings.get(answer.mnt_point as usize..).unwrap_or_default();
        let len = strings.iter().position(|&byte| byte == 0).unwrap_or(strings.len());
        PathBuf::from(std::ffi::OsStr::from_bytes(&strings[..len]))
    });
    (answer.mask & STATMOUNT_SB_BASIC != 0)
        .then(|| HostMount { kind: Kind::of_magic(answer.sb_magic), point })
}

/// `None` also when the string does not fit.
fn statmount(mnt_id: u64, param: u64) -> Option<Box<Answer>> {
    let request = Request { size: size_of::<Request>() as u32, spare: 0, mnt_id, param };
    let mut answer = Box::new(Answer {
        size: 0,
        mnt_opts: 0,
        mask: 0,
        sb_dev: [0; 2],
        sb_magic: 0,
        between: [0; 76],
        mnt_point: 0,
        rest: [0; 400],
        strings: [0; 4096],
    });
    // SAFETY: `request` says how long it is and is only read; `answer` is plain numbers with as much room as is said.
    let result = unsafe {
        libc::syscall(SYS_STATMOUNT, &raw const request, &raw mut *answer, size_of::<Answer>(), 0)
    };
    (result == 0).then_some(answer)
}

/// `None` without /proc, and for a mount that was detached.
fn by_mountinfo(file: impl AsFd) -> Option<HostMount> {
    let id = mount_id(file, StatxFlags::MNT_ID)?.to_string();
    let table = fs::read("/proc/self/mountinfo").ok()?;
    let line = table.split(|&byte| byte == b'\n').find(|line| {
        line.strip_prefix(id.as_bytes()).is_some_and(|rest| rest.first() == Some(&b' '))
    })?;
    parse(line)
}

/// A line of `/proc/self/mountinfo`: `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw`.
fn parse(line: &[u8]) -> Option<HostMount> {
    let mut words = line.split(|&byte| byte == b' ');
    let point = words.nth(4)?.to_vec();
    let name = words.skip_while(|&word| word != b"-").nth(1)?;
    let point = Some(PathBuf::from(std::ffi::OsString::from_vec(point)));
    Some(HostMount { kind: Kind::of_name(name), point })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn both_ways_tell_the_same_of_a_local_mount() {
        for path in ["/", "/proc", "/dev"] {
            let file = File::open(path).unwrap();
            let told = by_mountinfo(&file).unwrap();
            assert_eq!(told.point().unwrap(), std::path::Path::new(path));
            assert!(!told.may_wait(), "{told:?}");
            // Not on kernels before 6.8.
            assert!(by_statmount(&file).is_none_or(|statmount| statmount == told));
        }
    }

    #[test]
    fn mounts_of_others_are_told_by_their_name() {
        let line = |name: &str| format!("36 35 0:42 / /mnt/a rw master:1 - {name} source rw");
        for (name, may_wait, is_fuse) in [
            ("ext4", false, false),
            ("tmpfs", false, false),
            ("fuse.bindfs", true, true),
            ("virtiofs", true, true),
            ("nfs4", true, false),
            ("autofs", true, false),
        ] {
            let told = parse(line(name).as_bytes()).unwrap();
            assert_eq!((told.may_wait(), told.is_fuse()), (may_wait, is_fuse), "{name}");
            assert_eq!(told.point().unwrap(), std::path::Path::new("/mnt/a"));
        }
    }

    #[test]
    fn a_broken_line_tells_nothing() {
        for line in ["", "36", "36 35 0:42 / /mnt rw", "36 35 0:42 / /mnt rw -"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }
}
