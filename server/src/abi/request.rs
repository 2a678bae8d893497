//! What a client sends.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Declares wire structs with their sizes in bytes.
macro_rules! wire {
    ($( $name:ident[$size:literal] { $( $field:ident: $type:ty, )* } )*) => { $(
        #[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
        #[repr(C)]
        pub struct $name { $( pub $field: $type, )* }
        const _: () = assert!(size_of::<$name>() == $size);
    )* };
}
pub(super) use wire;

wire! {
    fuse_in_header[40] {
        len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32,
        total_extlen: u16, padding: u16,
    }
    fuse_forget_in[8] { nlookup: u64, }
    fuse_forget_one[16] { nodeid: u64, nlookup: u64, }
    fuse_batch_forget_in[8] { count: u32, dummy: u32, }
    fuse_getattr_in[16] { getattr_flags: u32, dummy: u32, fh: u64, }
    fuse_mknod_in[16] { mode: u32, rdev: u32, umask: u32, padding: u32, }
    fuse_mkdir_in[8] { mode: u32, umask: u32, }
    fuse_rename_in[8] { newdir: u64, }
    fuse_rename2_in[16] { newdir: u64, flags: u32, padding: u32, }
    fuse_link_in[8] { oldnodeid: u64, }
    fuse_setattr_in[88] {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64,
        ctime: u64, atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32,
        uid: u32, gid: u32, unused5: u32,
    }
    fuse_open_in[8] { flags: u32, open_flags: u32, }
    fuse_create_in[16] { flags: u32, mode: u32, umask: u32, open_flags: u32, }
    fuse_release_in[24] { fh: u64, flags: u32, release_flags: u32, lock_owner: u64, }
    fuse_flush_in[24] { fh: u64, unused: u32, padding: u32, lock_owner: u64, }
    fuse_read_in[40] {
        fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32,
        padding: u32,
    }
    fuse_write_in[40] {
        fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32,
        padding: u32,
    }
    fuse_fsync_in[16] { fh: u64, fsync_flags: u32, padding: u32, }
    fuse_setxattr_in_compat[8] { size: u32, flags: u32, }
    fuse_setxattr_in[16] { size: u32, flags: u32, setxattr_flags: u32, padding: u32, }
    fuse_getxattr_in[8] { size: u32, padding: u32, }
    fuse_file_lock[24] { start: u64, end: u64, r#type: u32, pid: u32, }
    fuse_lk_in[48] { fh: u64, owner: u64, lk: fuse_file_lock, lk_flags: u32, padding: u32, }
    fuse_access_in[8] { mask: u32, padding: u32, }
    fuse_init_in_head[16] { major: u32, minor: u32, max_readahead: u32, flags: u32, }
    fuse_init_in[64] {
        major: u32, minor: u32, max_readahead: u32, flags: u32, flags2: u32, unused: [u32; 11],
    }
    fuse_interrupt_in[8] { unique: u64, }
    fuse_bmap_in[16] { block: u64, blocksize: u32, padding: u32, }
    fuse_ioctl_in[32] { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32, }
    fuse_poll_in[24] { fh: u64, kh: u64, flags: u32, events: u32, }
    fuse_notify_retrieve_in[40] {
        dummy1: u64, offset: u64, size: u32, dummy2: u32, dummy3: u64, dummy4: u64,
    }
    fuse_fallocate_in[32] { fh: u64, offset: u64, length: u64, mode: u32, padding: u32, }
    fuse_lseek_in[24] { fh: u64, offset: u64, whence: u32, padding: u32, }
    fuse_copy_file_range_in[56] {
        fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64,
    }
    fuse_setupmapping_in[40] { fh: u64, foffset: u64, len: u64, flags: u64, moffset: u64, }
    fuse_removemapping_in[4] { count: u32, }
    fuse_removemapping_one[16] { moffset: u64, len: u64, }
    fuse_syncfs_in[8] { padding: u64, }
    fuse_statx_in[24] {
        getattr_flags: u32, reserved: u32, fh: u64, sx_flags: u32, sx_mask: u32,
    }
    fuse_ext_header[8] { size: u32, r#type: u32, }
    fuse_supp_groups[4] { nr_groups: u32, }
}
