//! statx on descriptors.

use std::{ffi::CStr, io, os::fd::AsFd};

use fsrv::{
    Attr,
    types::{Timestamp, device_number},
};
use rustix::fs::{AtFlags, Statx, StatxFlags, StatxTimestamp, statx};

/// STATX_MNT_ID_UNIQUE of Linux 6.8: the numbers are not reused. Older kernels ignore the bit.
const MNT_ID_UNIQUE: u32 = 0x4000;

/// What is known of a file.
pub(crate) struct Stat {
    pub(crate) attr: Attr,
    pub(crate) btime: Option<Timestamp>,
    /// The device it is on, as [`device_number`].
    pub(crate) dev: u32,
    pub(crate) mount: u64,
    pub(crate) attributes: u64,
    pub(crate) attributes_mask: u64,
}

/// What is asked for.
const MASK: StatxFlags = StatxFlags::BASIC_STATS
    .union(StatxFlags::BTIME)
    .union(StatxFlags::MNT_ID)
    .union(StatxFlags::from_bits_retain(MNT_ID_UNIQUE));

/// STATX_ATTR_MOUNT_ROOT.
const MOUNT_ROOT: u64 = 0x2000;

impl Stat {
    /// Of the file that `fd` refers to.
    pub(crate) fn of(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self::from_host(&statx(fd, c"", AtFlags::EMPTY_PATH, MASK)?))
    }

    /// As the host's kernel has it, without asking another machine or process. Of a file of theirs only the type, the
    /// device and the mount are sure.
    pub(crate) fn in_memory(fd: impl AsFd) -> io::Result<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        Ok(Self::from_host(&statx(fd, c"", flags, MASK)?))
    }

    /// Whether it is the root of its mount.
    pub(crate) fn is_mount_root(&self) -> bool {
        self.attributes & MOUNT_ROOT != 0
    }

    /// The blocks of 512 bytes of `name` in `dir`.
    pub(crate) fn blocks_at(dir: impl AsFd, name: &CStr) -> io::Result<u64> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
        Ok(statx(dir, name, flags, StatxFlags::BLOCKS)?.stx_blocks)
    }

    fn from_host(stat: &Statx) -> Self {
        let has_btime = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            attr: Attr {
                ino: stat.stx_ino,
                size: stat.stx_size,
                blocks: stat.stx_blocks,
                atime: timestamp(stat.stx_atime),
                mtime: timestamp(stat.stx_mtime),
                ctime: timestamp(stat.stx_ctime),
                mode: stat.stx_mode.into(),
                nlink: stat.stx_nlink,
                uid: stat.stx_uid,
                gid: stat.stx_gid,
                rdev: device_number(stat.stx_rdev_major, stat.stx_rdev_minor),
                blksize: stat.stx_blksize,
                submount: false,
            },
            btime: has_btime.then(|| timestamp(stat.stx_btime)),
            dev: device_number(stat.stx_dev_major, stat.stx_dev_minor),
            mount: stat.stx_mnt_id,
            attributes: stat.stx_attributes.bits(),
            attributes_mask: stat.stx_attributes_mask.bits(),
        }
    }

    /// Changes whenever the content does. Never 0.
    pub(crate) fn version(&self) -> u64 {
        let Attr { mtime, ctime, size, .. } = self.attr;
        let parts = [
            mtime.sec.cast_unsigned(),
            mtime.nsec.into(),
            ctime.sec.cast_unsigned(),
            ctime.nsec.into(),
            size,
        ];
        let mix = |hash: u64, part: u64| {
            (hash.rotate_left(23) ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        };
        parts.into_iter().fold(1, mix) | 1
    }
}

fn timestamp(time: StatxTimestamp) -> Timestamp {
    Timestamp { sec: time.tv_sec, nsec: time.tv_nsec }
}
