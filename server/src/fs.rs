//! The filesystem trait.

use std::future::{Future, ready};

use fsrv_transport::mem::Filled;

use crate::{
    context::Context,
    errno::{Errno, Result},
    init::Init,
    op::*,
    types::*,
};

/// What a filesystem holds at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Nodes that the client knows, the root among them.
    pub inodes: u64,
    /// Lookups that the client has not taken back by FORGET, those of the root left out.
    pub lookups: u64,
    /// Open files and directories.
    pub handles: u64,
    /// Locks held, and waited for.
    pub locks: u64,
}

/// A filesystem: each method takes one request and returns one reply.
///
/// Methods answer by value; the session sends the reply, exactly once. Futures need not be `Send`:
/// each runs on the worker that received the request. A future is never dropped before it ends, so
/// one that waits for a client must look at [`Context::interrupted`] and first call
/// [`Context::park`].
///
/// The default of an operation is ENOSYS, which a client takes as "never implemented here": it stops
/// sending that operation for the life of the connection. Answer [`Errno::EOPNOTSUPP`] for an object
/// that does not support what another one does.
///
/// A method that panics is answered EIO, and the filesystem is asked again: what it shares between requests has to be
/// whole at every point that can panic, and a mutex may be poisoned.
///
/// Every error of the operation's system call is a valid reply; methods name those with a meaning of
/// their own.
///
/// # Example
/// ```
/// use fsrv::{Context, Entry, FileSystem, Result, op::Lookup, Errno};
///
/// struct Empty;
///
/// impl FileSystem for Empty {
///     async fn lookup(&self, _: &Context, _: Lookup<'_>) -> Result<Entry> {
///         Err(Errno::ENOENT)
///     }
/// }
/// ```
pub trait FileSystem: Send + Sync {
    /// A client begins: `init` tells what it can do and takes what this filesystem wants.
    fn init(&self, init: &mut Init) {
        let _ = init;
    }

    /// The client is gone: forget its lookups, handles and locks. Called also before another INIT.
    fn destroy(&self) {}

    /// Takes back `nlookup` lookups of `nodeid`. It has no reply and must not wait. Numbers that do
    /// not fit come from a broken client and must do no harm.
    fn forget(&self, nodeid: NodeId, nlookup: u64) {
        let _ = (nodeid, nlookup);
    }

    /// What is held at the moment.
    fn stats(&self) -> Stats {
        Stats::default()
    }

    /// LOOKUP. The reply counts as one lookup of its node, raised before it is returned.
    ///
    /// ENOENT when there is no such name (or [`Entry::negative`], which the client may keep);
    /// ESTALE for `.` of a node that is gone.
    fn lookup(&self, cx: &Context, op: Lookup<'_>) -> impl Future<Output = Result<Entry>> {
        unimplemented(cx, op)
    }

    /// GETATTR.
    fn getattr(&self, cx: &Context, op: GetAttr) -> impl Future<Output = Result<Attributes>> {
        unimplemented(cx, op)
    }

    /// STATX.
    fn statx(&self, cx: &Context, op: GetStatx) -> impl Future<Output = Result<Statx>> {
        unimplemented(cx, op)
    }

    /// SETATTR: all of it or an error. The reply has the new attributes.
    fn setattr(&self, cx: &Context, op: SetAttr) -> impl Future<Output = Result<Attributes>> {
        unimplemented(cx, op)
    }

    /// READLINK. The reply is the target without a NUL.
    fn readlink(&self, cx: &Context, op: ReadLink) -> impl Future<Output = Result<Filled>> {
        unimplemented(cx, op)
    }

    /// SYMLINK. EEXIST when the name is taken. Counts as a lookup, as do the next four.
    fn symlink(&self, cx: &Context, op: Symlink<'_>) -> impl Future<Output = Result<Entry>> {
        unimplemented(cx, op)
    }

    /// MKNOD. EEXIST when the name is taken.
    fn mknod(&self, cx: &Context, op: MkNod<'_>) -> impl Future<Output = Result<Entry>> {
        unimplemented(cx, op)
    }

    /// MKDIR. EEXIST when the name is taken.
    fn mkdir(&self, cx: &Context, op: MkDir<'_>) -> impl Future<Output = Result<Entry>> {
        unimplemented(cx, op)
    }

    /// LINK. EEXIST when the name is taken, EMLINK when there are too many.
    fn link(&self, cx: &Context, op: Link<'_>) -> impl Future<Output = Result<Entry>> {
        unimplemented(cx, op)
    }

    /// UNLINK. The node lives on until it is forgotten.
    fn unlink(&self, cx: &Context, op: Unlink<'_>) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// RMDIR. ENOTEMPTY when it has entries.
    fn rmdir(&self, cx: &Context, op: RmDir<'_>) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// RENAME and RENAME2. EINVAL for flags that are not supported.
    fn rename(&self, cx: &Context, op: Rename<'_>) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// OPEN. The default tells the client to open without asking.
    fn open(&self, cx: &Context, op: Open) -> impl Future<Output = Result<Opened>> {
        unimplemented(cx, op)
    }

    /// CREATE: the reply counts as one lookup, and opens one handle.
    fn create(&self, cx: &Context, op: Create<'_>) -> impl Future<Output = Result<Created>> {
        unimplemented(cx, op)
    }

    /// TMPFILE: as CREATE.
    fn tmpfile(&self, cx: &Context, op: TmpFile) -> impl Future<Output = Result<Created>> {
        unimplemented(cx, op)
    }

    /// READ. Less than asked for means that the file ends there.
    fn read(&self, cx: &Context, op: Read) -> impl Future<Output = Result<Filled>> {
        unimplemented(cx, op)
    }

    /// WRITE. The reply is the number of bytes that are written now, not later.
    fn write(&self, cx: &Context, op: Write) -> impl Future<Output = Result<u32>> {
        unimplemented(cx, op)
    }

    /// STATFS.
    fn statfs(&self, cx: &Context, op: GetStatFs) -> impl Future<Output = Result<StatFs>> {
        unimplemented(cx, op)
    }

    /// RELEASE. Nobody sees an error of it.
    fn release(&self, cx: &Context, op: Release) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// FSYNC. An error of an earlier write arrives here.
    fn fsync(&self, cx: &Context, op: Fsync) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// FLUSH, at each close: an error reaches the caller of `close`.
    fn flush(&self, cx: &Context, op: Flush) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// SETXATTR.
    fn setxattr(&self, cx: &Context, op: SetXattr<'_>) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// GETXATTR. ERANGE when the value does not fit, ENODATA when there is none.
    fn getxattr(&self, cx: &Context, op: GetXattr<'_>) -> impl Future<Output = Result<Xattr>> {
        unimplemented(cx, op)
    }

    /// LISTXATTR. ERANGE when the names do not fit.
    fn listxattr(&self, cx: &Context, op: ListXattr) -> impl Future<Output = Result<Xattr>> {
        unimplemented(cx, op)
    }

    /// REMOVEXATTR. ENODATA when there is none.
    fn removexattr(&self, cx: &Context, op: RemoveXattr<'_>) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// OPENDIR. The default tells the client to open without asking.
    fn opendir(&self, cx: &Context, op: OpenDir) -> impl Future<Output = Result<Opened>> {
        unimplemented(cx, op)
    }

    /// READDIR. An empty reply is the end. EINVAL when not even one entry fits.
    fn readdir(&self, cx: &Context, op: ReadDir) -> impl Future<Output = Result<DirBuf>> {
        unimplemented(cx, op)
    }

    /// READDIRPLUS: each entry with a node counts as one lookup.
    fn readdirplus(
        &self,
        cx: &Context,
        op: ReadDirPlus,
    ) -> impl Future<Output = Result<DirPlusBuf>> {
        unimplemented(cx, op)
    }

    /// RELEASEDIR.
    fn releasedir(&self, cx: &Context, op: ReleaseDir) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// FSYNCDIR.
    fn fsyncdir(&self, cx: &Context, op: FsyncDir) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// GETLK. The reply is a lock in the way, or one of the kind [`LockKind::Unlock`].
    fn getlk(&self, cx: &Context, op: GetLk) -> impl Future<Output = Result<FileLock>> {
        unimplemented(cx, op)
    }

    /// SETLK and SETLKW. EAGAIN when it cannot be had, EINTR when a wait was interrupted, ENOLCK when
    /// too many wait. Before it waits it must [`Context::park`].
    fn setlk(&self, cx: &Context, op: SetLk) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// ACCESS.
    fn access(&self, cx: &Context, op: Access) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// BMAP.
    fn bmap(&self, cx: &Context, op: Bmap) -> impl Future<Output = Result<Mapped>> {
        unimplemented(cx, op)
    }

    /// IOCTL. ENOTTY for an unknown command.
    fn ioctl(&self, cx: &Context, op: Ioctl<'_>) -> impl Future<Output = Result<Ioctled>> {
        unimplemented(cx, op)
    }

    /// POLL. It answers at once, and notifies later when asked to.
    fn poll(&self, cx: &Context, op: PollEvents) -> impl Future<Output = Result<Events>> {
        unimplemented(cx, op)
    }

    /// FALLOCATE. EOPNOTSUPP for a mode that is not supported.
    fn fallocate(&self, cx: &Context, op: Fallocate) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// LSEEK for data and holes. ENXIO behind the last.
    fn lseek(&self, cx: &Context, op: Lseek) -> impl Future<Output = Result<u64>> {
        unimplemented(cx, op)
    }

    /// COPY_FILE_RANGE. The reply is the number of bytes copied.
    fn copy_file_range(
        &self,
        cx: &Context,
        op: CopyFileRange,
    ) -> impl Future<Output = Result<u64>> {
        unimplemented(cx, op)
    }

    /// SETUPMAPPING.
    fn setupmapping(&self, cx: &Context, op: SetupMapping) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// REMOVEMAPPING.
    fn removemapping(
        &self,
        cx: &Context,
        op: RemoveMapping<'_>,
    ) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }

    /// SYNCFS.
    fn syncfs(&self, cx: &Context, op: SyncFs) -> impl Future<Output = Result<()>> {
        unimplemented(cx, op)
    }
}

fn unimplemented<O, R>(_cx: &Context, _op: O) -> impl Future<Output = Result<R>> + use<O, R> {
    ready(Err(Errno::ENOSYS))
}
