//! The filesystem: each operation, and the file that has it.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
};

use fsrv::{
    Attributes, Context, Entry, Errno, FileSystem, Init, NodeId, Opened, Result, Stats, abi,
    op::*,
    types::{Created, FileLock, StatFs, Statx},
};
use fsrv_transport::{io as file_io, mem::Filled};

use crate::{
    config::{CachePolicy, Config},
    inode::Inode,
    mount::Mount,
    mutex::lock,
    ops::{attr, create, data, dir, ioctl, lock, lookup, name, open, space, xattr},
    prune::Pruner,
    shared::{SetupError, Shared},
};

/// A directory of the host.
pub struct Passthrough(Arc<Shared>);

impl Passthrough {
    /// Serves `root`, a directory opened by O_RDONLY.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(root: OwnedFd, config: Config) -> std::result::Result<Self, SetupError> {
        Shared::new(root, config).map(Arc::new).map(Self)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// Runs the system calls of one operation on `inode`: inline while its kind is quick on that
    /// mount, else on the pool.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        cx: &Context,
        inode: &Inode,
        call: impl FnOnce(&Shared) -> io::Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>> {
        self.run_on(cx, &inode.mount, call)
    }

    /// As [`Passthrough::run`], for what asks `mount`, which is charged for it. What it asks besides is local.
    ///
    /// # Errors
    /// Of a remote mount also those of [`crate::remote::Remote::run`].
    pub(crate) fn run_on<T: Send + 'static>(
        &self,
        cx: &Context,
        mount: &Arc<Mount>,
        call: impl FnOnce(&Shared) -> io::Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>> {
        self.run_with(cx, mount, Memory::Ours, call)
    }

    /// As [`Passthrough::run_on`], for a call that has a reply's memory in its hands.
    pub(crate) async fn run_with<T: Send + 'static>(
        &self,
        cx: &Context,
        mount: &Arc<Mount>,
        memory: Memory,
        call: impl FnOnce(&Shared) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = self.0.clone();
        let Some(remote) = mount.remote() else {
            let cost = mount.cost(cx.opcode);
            // A copy takes long and opens nothing: it must not keep the places of others.
            let is_counted = !cost.is_quick() && cx.opcode != Opcode::CopyFileRange;
            let _place = if is_counted { self.0.descriptors.for_call().await } else { None };
            let done = file_io::run(cost, move || call(&shared)).await;
            return Ok(done.map_err(Errno::from)??);
        };
        // As long as a thread waits for it, it is the same mount to those who come later.
        let held = mount.clone();
        let call = move || {
            let _slots = shared.descriptors.take_for_remote_call()?;
            let result = call(&shared);
            drop(held);
            result
        };
        Box::pin(remote.run(cx, memory, call)).await
    }

    /// As [`Passthrough::run`], for a call that may need room on the host. Where there is none, it waits for what is
    /// being freed, and makes the call once more.
    pub(crate) async fn run_with_room<T: Send + 'static>(
        &self,
        cx: &Context,
        inode: &Inode,
        call: impl Fn(&Shared) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run_again(cx, inode, call).await?.0
    }

    /// The same, with the call given back.
    pub(crate) async fn run_again<T: Send + 'static, F>(
        &self,
        cx: &Context,
        inode: &Inode,
        call: F,
    ) -> Result<(Result<T>, F)>
    where
        F: Fn(&Shared) -> io::Result<T> + Send + 'static,
    {
        let before = self.0.descriptors.freed();
        let (done, call) = self.run(cx, inode, move |shared| Ok((call(shared), call))).await?;
        match done {
            Err(error)
                if file_io::is_no_room(&error)
                    && !inode.mount.is_remote()
                    && self.0.descriptors.closer().has_freed_since(before).await =>
            {
                let again = move |shared: &Shared| Ok((call(shared), call));
                let again = Box::pin(self.run_long(cx, inode, again)).await?;
                Ok((again.0.map_err(Errno::from), again.1))
            }
            done => Ok((done.map_err(Errno::from), call)),
        }
    }

    /// As [`Passthrough::run`], for a call that is known to wait long.
    pub(crate) async fn run_long<T: Send + 'static>(
        &self,
        cx: &Context,
        inode: &Inode,
        call: impl FnOnce(&Shared) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        if inode.mount.is_remote() {
            return self.run(cx, inode, call).await;
        }
        let shared = self.0.clone();
        let done = file_io::on_pool(move || call(&shared)).await;
        Ok(done.map_err(Errno::from)??)
    }

    /// As [`Passthrough::run`], for a call that is known to keep a CPU busy for long.
    pub(crate) async fn run_aside<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Shared) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = self.0.clone();
        let _place = self.0.descriptors.for_call().await;
        let done = file_io::aside(move || call(&shared)).await;
        Ok(done.map_err(Errno::from)??)
    }
}

/// Whose memory a call reads or fills.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Memory {
    /// This process's.
    Ours,
    /// A virtual machine's, which takes it back with the answer.
    Client,
}

impl Memory {
    pub(crate) fn of(is_in_client: bool) -> Self {
        if is_in_client { Self::Client } else { Self::Ours }
    }
}

// What changes names is on the heap: it takes long enough, and the future of every request has room for the largest one.
impl FileSystem for Passthrough {
    fn init(&self, init: &mut Init) {
        let config = &self.0.config;
        // Not FUSE_ATOMIC_O_TRUNC: with it an O_RDONLY | O_TRUNC open of a program that runs empties the file
        // before the client's kernel finds that it must not be written (ETXTBSY).
        init.want(
            abi::FUSE_DO_READDIRPLUS
                | abi::FUSE_READDIRPLUS_AUTO
                | abi::FUSE_HANDLE_KILLPRIV_V2
                | abi::FUSE_POSIX_LOCKS
                | abi::FUSE_FLOCK_LOCKS
                | abi::FUSE_CREATE_SUPP_GROUP
                | abi::FUSE_DIRECT_IO_ALLOW_MMAP,
        );
        // The host applies the umask, because it knows the default ACL.
        if init.offers(abi::FUSE_POSIX_ACL | abi::FUSE_DONT_MASK) {
            init.want(abi::FUSE_POSIX_ACL | abi::FUSE_DONT_MASK);
        }
        if config.writeback {
            init.want(abi::FUSE_WRITEBACK_CACHE);
        }
        if config.cache == CachePolicy::Always {
            init.want(abi::FUSE_CACHE_SYMLINKS);
        }
        let is_exported =
            self.0.inodes.root().mount.has_handles() && init.offers(abi::FUSE_EXPORT_SUPPORT);
        if is_exported {
            init.want(abi::FUSE_EXPORT_SUPPORT);
        }
        self.0.is_exported.store(is_exported, Ordering::Relaxed);
        let pruner = init.client().filter(|_| init.minor() >= 45).and_then(|client| {
            Pruner::start(Arc::downgrade(&self.0), client.clone())
                .inspect_err(|error| tracing::warn!("cannot start the pruning thread: {error}"))
                .ok()
        });
        *lock(&self.0.pruner) = pruner;
    }

    fn destroy(&self) {
        self.0.clear();
    }

    fn forget(&self, nodeid: NodeId, nlookup: u64) {
        self.0.forget(nodeid, nlookup);
    }

    fn stats(&self) -> Stats {
        let (inodes, lookups) = self.0.inodes.count();
        let locks = self.0.locks.count();
        Stats { inodes, lookups, handles: self.0.handles.count(), locks }
    }

    async fn lookup(&self, cx: &Context, op: Lookup<'_>) -> Result<Entry> {
        lookup::lookup(self, cx, op).await
    }

    async fn getattr(&self, cx: &Context, op: GetAttr) -> Result<Attributes> {
        attr::getattr(self, cx, op).await
    }

    async fn statx(&self, cx: &Context, op: GetStatx) -> Result<Statx> {
        attr::statx(self, cx, op).await
    }

    async fn setattr(&self, cx: &Context, op: SetAttr) -> Result<Attributes> {
        attr::setattr(self, cx, op).await
    }

    async fn readlink(&self, cx: &Context, op: ReadLink) -> Result<Filled> {
        lookup::readlink(self, cx, op).await
    }

    async fn symlink(&self, cx: &Context, op: Symlink<'_>) -> Result<Entry> {
        Box::pin(create::symlink(self, cx, op)).await
    }

    async fn mknod(&self, cx: &Context, op: MkNod<'_>) -> Result<Entry> {
        Box::pin(create::mknod(self, cx, op)).await
    }

    async fn mkdir(&self, cx: &Context, op: MkDir<'_>) -> Result<Entry> {
        Box::pin(create::mkdir(self, cx, op)).await
    }

    async fn create(&self, cx: &Context, op: Create<'_>) -> Result<Created> {
        Box::pin(create::create(self, cx, op)).await
    }

    async fn tmpfile(&self, cx: &Context, op: TmpFile) -> Result<Created> {
        Box::pin(create::tmpfile(self, cx, op)).await
    }

    async fn link(&self, cx: &Context, op: Link<'_>) -> Result<Entry> {
        Box::pin(name::link(self, cx, op)).await
    }

    async fn unlink(&self, cx: &Context, op: Unlink<'_>) -> Result<()> {
        Box::pin(name::unlink(self, cx, op)).await
    }

    async fn rmdir(&self, cx: &Context, op: RmDir<'_>) -> Result<()> {
        Box::pin(name::rmdir(self, cx, op)).await
    }

    async fn rename(&self, cx: &Context, op: Rename<'_>) -> Result<()> {
        Box::pin(name::rename(self, cx, op)).await
    }

    async fn open(&self, cx: &Context, op: Open) -> Result<Opened> {
        open::open(self, cx, op).await
    }

    async fn release(&self, _: &Context, op: Release) -> Result<()> {
        open::release(self, op).await
    }

    async fn flush(&self, cx: &Context, op: Flush) -> Result<()> {
        open::flush(self, cx, op).await
    }

    async fn read(&self, cx: &Context, op: Read) -> Result<Filled> {
        data::read(self, cx, op).await
    }

    async fn write(&self, cx: &Context, op: Write) -> Result<u32> {
        data::write(self, cx, op).await
    }

    async fn fsync(&self, cx: &Context, op: Fsync) -> Result<()> {
        data::fsync(self, cx, (op.nodeid, op.fh), op.data_only).await
    }

    async fn fsyncdir(&self, cx: &Context, op: FsyncDir) -> Result<()> {
        data::fsync(self, cx, (op.nodeid, op.fh), op.data_only).await
    }

    async fn fallocate(&self, cx: &Context, op: Fallocate) -> Result<()> {
        space::fallocate(self, cx, op).await
    }

    async fn lseek(&self, cx: &Context, op: Lseek) -> Result<u64> {
        space::lseek(self, cx, op).await
    }

    async fn copy_file_range(&self, cx: &Context, op: CopyFileRange) -> Result<u64> {
        space::copy_file_range(self, cx, op).await
    }

    async fn statfs(&self, cx: &Context, op: GetStatFs) -> Result<StatFs> {
        space::statfs(self, cx, op).await
    }

    async fn syncfs(&self, cx: &Context, op: SyncFs) -> Result<()> {
        space::syncfs(self, cx, op).await
    }

    async fn setxattr(&self, cx: &Context, op: SetXattr<'_>) -> Result<()> {
        xattr::set(self, cx, op).await
    }

    async fn getxattr(&self, cx: &Context, op: GetXattr<'_>) -> Result<Xattr> {
        xattr::get(self, cx, op).await
    }

    async fn listxattr(&self, cx: &Context, op: ListXattr) -> Result<Xattr> {
        xattr::list(self, cx, op).await
    }

    async fn removexattr(&self, cx: &Context, op: RemoveXattr<'_>) -> Result<()> {
        xattr::remove(self, cx, op).await
    }

    async fn opendir(&self, cx: &Context, op: OpenDir) -> Result<Opened> {
        dir::opendir(self, cx, op).await
    }

    async fn readdir(&self, cx: &Context, op: ReadDir) -> Result<DirBuf> {
        dir::readdir(self, cx, op).await
    }

    async fn readdirplus(&self, cx: &Context, op: ReadDirPlus) -> Result<DirPlusBuf> {
        dir::readdirplus(self, cx, op).await
    }

    async fn releasedir(&self, _: &Context, op: ReleaseDir) -> Result<()> {
        dir::releasedir(self, op)
    }

    async fn getlk(&self, cx: &Context, op: GetLk) -> Result<FileLock> {
        lock::getlk(self, cx, op).await
    }

    async fn setlk(&self, cx: &Context, op: SetLk) -> Result<()> {
        lock::setlk(self, cx, op).await
    }

    async fn ioctl(&self, cx: &Context, op: Ioctl<'_>) -> Result<Ioctled> {
        ioctl::ioctl(self, cx, op).await
    }

    /// The client's kernel decides (`default_permissions`) and does not ask.
    async fn access(&self, _: &Context, op: Access) -> Result<()> {
        self.0.inode(op.nodeid).map(drop)
    }
}
