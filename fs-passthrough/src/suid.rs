//! Suid and sgid of regular files: what a change leaves of them.
//!
//! The host's kernel decides by the capabilities and groups of the thread that makes the change. Those are the
//! server's, so what belongs to the caller is decided here.

use std::{io, os::fd::AsFd};

use fsrv::{Attr, Context};

use crate::{
    inode::Inode,
    shared::Shared,
    sys::{
        creds::{acts_for_others, keeping_suid},
        meta,
        stat::Stat,
    },
};

const SUID: u32 = 0o4000;
const SGID: u32 = 0o2000;
const GROUP_EXECUTES: u32 = 0o0010;

/// Whether it is a regular file with suid or sgid.
pub(crate) fn has_suid(attr: &Attr) -> bool {
    attr.file_type() == Attr::REGULAR && attr.mode & (SUID | SGID) != 0
}

/// Who changes the content or the owner of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Changer {
    /// Has CAP_FSETID: the file keeps both.
    Privileged,
    /// Has not, and is in this group; other groups of a caller are not known.
    Ordinary { gid: u32 },
}

impl Changer {
    /// By a flag of the request, with which the client's kernel says that both must go.
    pub(crate) fn by_flag(cx: &Context, kills: bool) -> Self {
        if kills { Self::Ordinary { gid: cx.gid } } else { Self::Privileged }
    }

    /// Where the request does not say it: root is taken to have the capability.
    pub(crate) fn by_uid(cx: &Context) -> Self {
        Self::by_flag(cx, cx.uid != 0)
    }

    /// Runs `change` of `inode`, whose file `fd` is.
    pub(crate) fn run<T>(
        self,
        shared: &Shared,
        inode: &Inode,
        fd: impl AsFd,
        change: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let left = self.left(inode, &fd)?;
        let done = self.keep(inode, change);
        left.settle(shared, fd, &done)?;
        done
    }

    /// Runs `change` of `inode` alone, so that a privileged one takes nothing.
    pub(crate) fn keep<T>(
        self,
        inode: &Inode,
        change: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if self.keeps(inode) { keeping_suid(change) } else { change() }
    }

    /// Whether a change of `inode` needs a thread that has the capability.
    pub(crate) fn keeps(self, inode: &Inode) -> bool {
        inode.has_suid() && matches!(self, Self::Privileged)
    }

    /// What must be left after a change of `inode` that is about to be made.
    pub(crate) fn left(self, inode: &Inode, fd: impl AsFd) -> io::Result<Left> {
        if !inode.has_suid() {
            return Ok(Left(None));
        }
        let stat = Stat::of(fd)?;
        inode.saw(&stat);
        let Self::Ordinary { gid } = self else { return Ok(Left(None)) };
        let attr = stat.attr;
        // The host's kernel takes both, but for sgid without group execution: that gives no rights, and members of the group
        // leave it.
        if attr.mode & (SGID | GROUP_EXECUTES) != SGID || !acts_for_others() {
            return Ok(Left(None));
        }
        let after = if attr.gid == gid { SGID } else { 0 };
        Ok(Left(Some(Bits { before: attr.mode & (SUID | SGID), after })))
    }
}

/// What a change must leave, where the host's kernel cannot know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left(Option<Bits>);

#[derive(Clone, Copy, Debug)]
struct Bits {
    before: u32,
    after: u32,
}

impl Left {
    /// Sets the bits after the change, also after one that failed and has taken them.
    pub(crate) fn settle<T, E>(
        self,
        shared: &Shared,
        fd: impl AsFd,
        done: &Result<T, E>,
    ) -> io::Result<()> {
        let Some(Bits { before, after }) = self.0 else { return Ok(()) };
        let mode = Stat::of(&fd)?.attr.mode & 0o7777;
        let bits = mode & (SUID | SGID);
        if bits == after || (done.is_err() && bits == before) {
            return Ok(());
        }
        keeping_suid(|| meta::chmod(shared.proc_fd(), fd, mode & !(SUID | SGID) | after))
    }
}
