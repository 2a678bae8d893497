//! Mode and owner of the file, and who may change what of them: the rules of QEMU's FUSE export (`fuse_setattr`).

use fsrv::{Attr, Errno, Result, op::SetAttr};

/// Mode and owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Permission bits.
    pub mode: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The permission bits of users other than the owner.
const OTHERS: u32 = 0o077;
const WRITE: u32 = 0o222;
/// With suid, sgid and the sticky bit, which mean nothing here.
const PERMISSIONS: u32 = 0o7777;

impl Owner {
    /// The file of the user `uid`, who may read it, and write to it when it is writable.
    pub fn new(uid: u32, gid: u32, is_writable: bool) -> Self {
        Self { mode: if is_writable { 0o600 } else { 0o400 }, uid, gid }
    }

    /// What is left of `op` when its size is done; an error when it asks for what is not to be had.
    ///
    /// # Errors
    /// EOPNOTSUPP for times, and for an owner without `allow_other`; EPERM for the permissions of others without it,
    /// EROFS for those to write to a read-only image.
    pub(crate) fn changed(
        self,
        op: &SetAttr,
        allow_other: bool,
        is_writable: bool,
    ) -> Result<Self> {
        if op.atime.is_some() || op.mtime.is_some() {
            return Err(Errno::EOPNOTSUPP);
        }
        if !allow_other && (op.uid.is_some() || op.gid.is_some()) {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(mode) = op.mode {
            if !allow_other && mode & OTHERS != 0 {
                return Err(Errno::EPERM);
            }
            if !is_writable && mode & WRITE != 0 {
                return Err(Errno::EROFS);
            }
        }
        Ok(Self {
            mode: op.mode.map_or(self.mode, |mode| mode & PERMISSIONS),
            uid: op.uid.unwrap_or(self.uid),
            gid: op.gid.unwrap_or(self.gid),
        })
    }

    /// These as attributes of a regular file.
    pub(crate) fn attr(self) -> Attr {
        Attr {
            mode: Attr::REGULAR | self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: 1,
            ..Attr::default()
        }
    }
}
