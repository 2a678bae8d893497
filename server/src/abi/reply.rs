//! What a server sends.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::request::{fuse_file_lock, wire};

wire! {
    fuse_out_header[16] { len: u32, error: i32, unique: u64, }
    fuse_attr[88] {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32,
        mtimensec: u32, ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32,
        blksize: u32, flags: u32,
    }
    fuse_sx_time[16] { tv_sec: i64, tv_nsec: u32, __reserved: i32, }
    fuse_statx[256] {
        mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16,
        __spare0: [u16; 1], ino: u64, size: u64, blocks: u64, attributes_mask: u64,
        atime: fuse_sx_time, btime: fuse_sx_time, ctime: fuse_sx_time, mtime: fuse_sx_time,
        rdev_major: u32, rdev_minor: u32, dev_major: u32, dev_minor: u32, __spare2: [u64; 14],
    }
    fuse_statx_out[288] {
        attr_valid: u64, attr_valid_nsec: u32, flags: u32, spare: [u64; 2], stat: fuse_statx,
    }
    fuse_entry_out[128] {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32,
        attr_valid_nsec: u32, attr: fuse_attr,
    }
    fuse_attr_out[104] { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: fuse_attr, }
    fuse_open_out[16] { fh: u64, open_flags: u32, backing_id: i32, }
    fuse_create_out[144] { entry: fuse_entry_out, open: fuse_open_out, }
    fuse_write_out[8] { size: u32, padding: u32, }
    fuse_kstatfs[80] {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32,
        frsize: u32, padding: u32, spare: [u32; 6],
    }
    fuse_getxattr_out[8] { size: u32, padding: u32, }
    fuse_lk_out[24] { lk: fuse_file_lock, }
    fuse_init_out[64] {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16,
        congestion_threshold: u16, max_write: u32, time_gran: u32, max_pages: u16,
        map_alignment: u16, flags2: u32, max_stack_depth: u32, request_timeout: u16,
        unused: [u16; 11],
    }
    fuse_bmap_out[8] { block: u64, }
    fuse_ioctl_out[16] { result: i32, flags: u32, in_iovs: u32, out_iovs: u32, }
    fuse_poll_out[8] { revents: u32, padding: u32, }
    fuse_lseek_out[8] { offset: u64, }
    fuse_copy_file_range_out[8] { bytes_copied: u64, }
    fuse_dirent[24] { ino: u64, off: u64, namelen: u32, r#type: u32, }
    fuse_direntplus[152] { entry_out: fuse_entry_out, dirent: fuse_dirent, }
    fuse_notify_inval_inode_out[24] { ino: u64, off: i64, len: i64, }
    fuse_notify_inval_entry_out[16] { parent: u64, namelen: u32, flags: u32, }
    fuse_notify_delete_out[24] { parent: u64, child: u64, namelen: u32, padding: u32, }
    fuse_notify_prune_out[16] { count: u32, padding: u32, spare: u64, }
    fuse_notify_poll_wakeup_out[8] { kh: u64, }
}
