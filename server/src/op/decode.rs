//! How each request is read off the wire.

use std::ffi::CStr;

use fsrv_transport::mem::OutBuf;
use zerocopy::{FromBytes, Unalign};

use super::{args::Args, request::*};
use crate::{
    abi::*,
    errno::{Errno, Result},
    name::LookupName,
    op::{DirBuf, DirPlusBuf, Opcode},
    types::{Fh, FileLock, LockOwner, NodeId, Timestamp},
};

/// Reads one request. `opcode` tells the forms of one operation apart.
pub(super) trait Decode<'r>: Sized {
    fn decode(opcode: Opcode, nodeid: NodeId, args: &mut Args<'r>) -> Result<Self>;
}

/// Writes the impl around the part that differs.
macro_rules! decode {
    ($( $name:ident $(<$r:lifetime>)? |$opcode:pat_param, $nodeid:ident, $args:ident| $body:expr; )*) => { $(
        impl<'r> Decode<'r> for $name $(<$r>)? {
            fn decode($opcode: Opcode, $nodeid: NodeId, $args: &mut Args<'r>) -> Result<Self> {
                $body
            }
        }
    )* };
}

decode! {
    Lookup<'r> |_, parent, args| Ok(Self { parent, name: LookupName::new(args.last_c_str()?)? });
    GetAttr |_, nodeid, args| {
        let fuse_getattr_in { getattr_flags, fh, .. } = args.get()?;
        Ok(Self { nodeid, fh: handle_if(getattr_flags & FUSE_GETATTR_FH, fh) })
    };
    GetStatx |_, nodeid, args| {
        let fuse_statx_in { getattr_flags, fh, sx_flags, sx_mask, .. } = args.get()?;
        let fh = handle_if(getattr_flags & FUSE_GETATTR_FH, fh);
        Ok(Self { nodeid, fh, mask: sx_mask, flags: sx_flags })
    };
    SetAttr |_, nodeid, args| set_attr(nodeid, &args.get()?);
    ReadLink |_, nodeid, args| Ok(Self { nodeid, out: args.all_out()? });
    Symlink<'r> |_, parent, args| {
        let name = args.name()?;
        Ok(Self { parent, name, target: args.last_c_str()? })
    };
    MkNod<'r> |_, parent, args| {
        let fuse_mknod_in { mode, rdev, umask, .. } = args.get()?;
        Ok(Self { parent, name: args.last_name()?, mode, rdev, umask })
    };
    MkDir<'r> |_, parent, args| {
        let fuse_mkdir_in { mode, umask } = args.get()?;
        Ok(Self { parent, name: args.last_name()?, mode, umask })
    };
    Unlink<'r> |_, parent, args| Ok(Self { parent, name: args.last_name()? });
    RmDir<'r> |_, parent, args| Ok(Self { parent, name: args.last_name()? });
    Rename<'r> |opcode, parent, args| {
        let (newdir, flags) = if opcode == Opcode::Rename2 {
            let fuse_rename2_in { newdir, flags, .. } = args.get()?;
            (newdir, flags)
        } else {
            let fuse_rename_in { newdir } = args.get()?;
            (newdir, 0)
        };
        let name = args.name()?;
        let new_name = args.last_name()?;
        Ok(Self { parent, name, new_parent: NodeId(newdir), new_name, flags })
    };
    Link<'r> |_, new_parent, args| {
        let fuse_link_in { oldnodeid } = args.get()?;
        Ok(Self { nodeid: NodeId(oldnodeid), new_parent, new_name: args.last_name()? })
    };
    Open |_, nodeid, args| {
        let fuse_open_in { flags, open_flags } = args.get()?;
        Ok(Self { nodeid, flags, kill_suidgid: open_flags & FUSE_OPEN_KILL_SUIDGID != 0 })
    };
    Create<'r> |_, parent, args| {
        let fuse_create_in { flags, mode, umask, open_flags } = args.get()?;
        let kill_suidgid = open_flags & FUSE_OPEN_KILL_SUIDGID != 0;
        Ok(Self { parent, name: args.last_name()?, flags, mode, umask, kill_suidgid })
    };
    TmpFile |_, parent, args| {
        let fuse_create_in { flags, mode, umask, .. } = args.get()?;
        Ok(Self { parent, flags, mode, umask })
    };
    Read |_, nodeid, args| {
        let fuse_read_in { fh, offset, size, read_flags, lock_owner, flags, .. } = args.get()?;
        let lock_owner = owner_if(read_flags & FUSE_READ_LOCKOWNER, lock_owner);
        Ok(Self { nodeid, fh: Fh(fh), offset, out: args.out(size)?, lock_owner, flags })
    };
    Write |_, nodeid, args| {
        let fuse_write_in { fh, offset, size, write_flags, lock_owner, flags, .. } = args.get()?;
        Ok(Self {
            nodeid,
            fh: Fh(fh),
            offset,
            data: args.data(size)?,
            lock_owner: owner_if(write_flags & FUSE_WRITE_LOCKOWNER, lock_owner),
            flags,
            cached: write_flags & FUSE_WRITE_CACHE != 0,
            kill_suidgid: write_flags & FUSE_WRITE_KILL_SUIDGID != 0,
        })
    };
    GetStatFs |_, nodeid, _args| Ok(Self { nodeid });
    Release |_, nodeid, args| {
        let fuse_release_in { fh, flags, release_flags, lock_owner } = args.get()?;
        let flock_owner = owner_if(release_flags & FUSE_RELEASE_FLOCK_UNLOCK, lock_owner);
        Ok(Self { nodeid, fh: Fh(fh), flags, flock_owner })
    };
    Flush |_, nodeid, args| {
        let fuse_flush_in { fh, lock_owner, .. } = args.get()?;
        Ok(Self { nodeid, fh: Fh(fh), lock_owner: LockOwner(lock_owner) })
    };
    Fsync |_, nodeid, args| {
        let (fh, data_only) = fsync(args)?;
        Ok(Self { nodeid, fh, data_only })
    };
    SetXattr<'r> |opcode, nodeid, args| set_xattr(opcode, nodeid, args);
    GetXattr<'r> |_, nodeid, args| {
        let size = args.get::<fuse_getxattr_in>()?.size;
        let name = xattr_name(args.last_c_str()?)?;
        Ok(Self { nodeid, name, out: xattr_out(size, args)? })
    };
    ListXattr |_, nodeid, args| {
        let size = args.get::<fuse_getxattr_in>()?.size;
        Ok(Self { nodeid, out: xattr_out(size, args)? })
    };
    RemoveXattr<'r> |_, nodeid, args| Ok(Self { nodeid, name: xattr_name(args.last_c_str()?)? });
    OpenDir |_, nodeid, args| Ok(Self { nodeid, flags: args.get::<fuse_open_in>()?.flags });
    ReadDir |_, nodeid, args| {
        let (fh, offset, out) = read_dir(args)?;
        Ok(Self { nodeid, fh, offset, entries: DirBuf::new(out) })
    };
    ReadDirPlus |_, nodeid, args| {
        let (fh, offset, out) = read_dir(args)?;
        Ok(Self { nodeid, fh, offset, entries: DirPlusBuf::new(out) })
    };
    ReleaseDir |_, nodeid, args| Ok(Self { nodeid, fh: Fh(args.get::<fuse_release_in>()?.fh) });
    FsyncDir |_, nodeid, args| {
        let (fh, data_only) = fsync(args)?;
        Ok(Self { nodeid, fh, data_only })
    };
    GetLk |_, nodeid, args| {
        let fuse_lk_in { fh, owner, lk, .. } = args.get()?;
        let lock = FileLock::from_abi(lk).ok_or(Errno::EINVAL)?;
        Ok(Self { nodeid, fh: Fh(fh), owner: LockOwner(owner), lock })
    };
    SetLk |opcode, nodeid, args| {
        let fuse_lk_in { fh, owner, lk, lk_flags, .. } = args.get()?;
        Ok(Self {
            nodeid,
            fh: Fh(fh),
            owner: LockOwner(owner),
            lock: FileLock::from_abi(lk).ok_or(Errno::EINVAL)?,
            flock: lk_flags & FUSE_LK_FLOCK != 0,
            wait: opcode == Opcode::SetLkW,
        })
    };
    Access |_, nodeid, args| Ok(Self { nodeid, mask: args.get::<fuse_access_in>()?.mask });
    Bmap |_, nodeid, args| {
        let fuse_bmap_in { block, blocksize, .. } = args.get()?;
        Ok(Self { nodeid, block, block_size: blocksize })
    };
    Ioctl<'r> |_, nodeid, args| {
        let fuse_ioctl_in { fh, flags, cmd, arg, in_size, out_size } = args.get()?;
        let input = args.bytes(in_size as usize)?;
        Ok(Self { nodeid, fh: Fh(fh), flags, cmd, arg, input, out: args.out(out_size)? })
    };
    PollEvents |_, nodeid, args| {
        let fuse_poll_in { fh, kh, flags, events } = args.get()?;
        let notify = (flags & FUSE_POLL_SCHEDULE_NOTIFY != 0).then_some(kh);
        Ok(Self { nodeid, fh: Fh(fh), notify, events })
    };
    Fallocate |_, nodeid, args| {
        let fuse_fallocate_in { fh, offset, length, mode, .. } = args.get()?;
        Ok(Self { nodeid, fh: Fh(fh), offset, length, mode })
    };
    Lseek |_, nodeid, args| {
        let fuse_lseek_in { fh, offset, whence, .. } = args.get()?;
        Ok(Self { nodeid, fh: Fh(fh), offset, whence })
    };
    CopyFileRange |opcode, nodeid_in, args| {
        let fuse_copy_file_range_in { fh_in, off_in, nodeid_out, fh_out, off_out, len, flags } =
            args.get()?;
        Ok(Self {
            nodeid_in,
            fh_in: Fh(fh_in),
            offset_in: off_in,
            nodeid_out: NodeId(nodeid_out),
            fh_out: Fh(fh_out),
            offset_out: off_out,
            len: if opcode == Opcode::CopyFileRange64 { len } else { len.min(COPY_MAX_32) },
            flags,
        })
    };
    SetupMapping |_, nodeid, args| {
        let fuse_setupmapping_in { fh, foffset, len, flags, moffset } = args.get()?;
        Ok(Self { nodeid, fh: Fh(fh), offset: foffset, len, flags, window_offset: moffset })
    };
    RemoveMapping<'r> |_, nodeid, args| {
        let fuse_removemapping_in { count } = args.get()?;
        let len = (count as usize).checked_mul(size_of::<fuse_removemapping_one>());
        let bytes = args.bytes(len.ok_or(Errno::EINVAL)?)?;
        let parts = <[Unalign<fuse_removemapping_one>]>::ref_from_bytes(bytes);
        Ok(Self { nodeid, parts: parts.map_err(|_| Errno::EINVAL)? })
    };
    SyncFs |_, nodeid, args| args.get::<fuse_syncfs_in>().map(|_| Self { nodeid });
}

/// What the reply to the 32-bit form can tell, in whole pages.
const COPY_MAX_32: u64 = 0xffff_f000;

fn handle_if(given: u32, fh: u64) -> Option<Fh> {
    (given != 0).then_some(Fh(fh))
}

fn owner_if(given: u32, owner: u64) -> Option<LockOwner> {
    (given != 0).then_some(LockOwner(owner))
}

fn set_attr(nodeid: NodeId, arg: &fuse_setattr_in) -> Result<SetAttr> {
    let given = |bit| arg.valid & bit != 0;
    let time = |bit, now_bit, sec: u64, nsec| {
        if !given(bit) {
            Ok(None)
        } else if given(now_bit) {
            Ok(Some(SetTime::Now))
        } else {
            timestamp(sec, nsec).map(|time| Some(SetTime::At(time)))
        }
    };
    let ctime = given(FATTR_CTIME).then(|| timestamp(arg.ctime, arg.ctimensec)).transpose()?;
    Ok(SetAttr {
        nodeid,
        fh: handle_if(arg.valid & FATTR_FH, arg.fh),
        mode: given(FATTR_MODE).then_some(arg.mode),
        uid: given(FATTR_UID).then_some(arg.uid),
        gid: given(FATTR_GID).then_some(arg.gid),
        size: given(FATTR_SIZE).then_some(arg.size),
        atime: time(FATTR_ATIME, FATTR_ATIME_NOW, arg.atime, arg.atimensec)?,
        mtime: time(FATTR_MTIME, FATTR_MTIME_NOW, arg.mtime, arg.mtimensec)?,
        ctime,
        lock_owner: owner_if(arg.valid & FATTR_LOCKOWNER, arg.lock_owner),
        kill_suidgid: given(FATTR_KILL_SUIDGID),
    })
}

fn timestamp(sec: u64, nsec: u32) -> Result<Timestamp> {
    if nsec >= 1_000_000_000 {
        return Err(Errno::EINVAL);
    }
    Ok(Timestamp { sec: sec.cast_signed(), nsec })
}

fn fsync(args: &mut Args<'_>) -> Result<(Fh, bool)> {
    let fuse_fsync_in { fh, fsync_flags, .. } = args.get()?;
    Ok((Fh(fh), fsync_flags & FUSE_FSYNC_FDATASYNC != 0))
}

/// The long form: FUSE_SETXATTR_EXT is always asked for, and in use when the client has it.
fn set_xattr<'r>(opcode: Opcode, nodeid: NodeId, args: &mut Args<'r>) -> Result<SetXattr<'r>> {
    let (size, flags, setxattr_flags) = if opcode == Opcode::SetXattrCompat {
        let fuse_setxattr_in_compat { size, flags } = args.get()?;
        (size, flags, 0)
    } else {
        let fuse_setxattr_in { size, flags, setxattr_flags, .. } = args.get()?;
        (size, flags, setxattr_flags)
    };
    let name = xattr_name(args.c_str()?)?;
    let value = args.bytes(size as usize)?;
    let kill_sgid = setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID != 0;
    Ok(SetXattr { nodeid, name, value, flags, kill_sgid })
}

/// The longest name of an attribute, in bytes (`XATTR_NAME_MAX`).
const XATTR_NAME_MAX: usize = 255;

fn xattr_name(name: &CStr) -> Result<&CStr> {
    match name.to_bytes().len() {
        1..=XATTR_NAME_MAX => Ok(name),
        _ => Err(Errno::ERANGE),
    }
}

fn xattr_out(size: u32, args: &mut Args<'_>) -> Result<Option<OutBuf>> {
    if size == 0 { Ok(None) } else { args.out(size).map(Some) }
}

fn read_dir(args: &mut Args<'_>) -> Result<(Fh, u64, OutBuf)> {
    let fuse_read_in { fh, offset, size, .. } = args.get()?;
    Ok((Fh(fh), offset, args.out(size)?))
}
