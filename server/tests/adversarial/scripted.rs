//! A filesystem that does with each request what the test told it to.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use fsrv::{Context, Errno, FileSystem, Init, NodeId, Result, Stats, abi, op::*, types::*};
use fsrv_transport::{
    io::{Cost, File, WriteAt, preadv2, pwritev2, run},
    mem::Filled,
};

/// What a request does before it takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Behaviour {
    Instant,
    Fails(Errno),
    /// Waits until the test opens its gate, or an interrupt.
    Pending,
    /// Waits until the test opens its gate, whatever happens.
    Stubborn,
    /// Waits for an interrupt, as for an event that only a client can bring about.
    Forever,
    /// Sleeps on a thread of the pool.
    Blocking,
}

/// Why a request is not answered yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    Gate { stubborn: bool },
    Forever,
    Lock { node: u64, owner: u64 },
    Pool,
}

impl Wait {
    pub(crate) fn is_parked(self) -> bool {
        matches!(self, Self::Forever | Self::Lock { .. })
    }
}

#[derive(Default)]
pub(crate) struct State {
    plan: HashMap<u64, Behaviour>,
    gates: HashMap<u64, Waker>,
    open: HashSet<u64>,
    lock_waiters: Vec<Waker>,
    /// Requests that wait, by their unique.
    pub(crate) waiting: BTreeMap<u64, Wait>,
    pub(crate) lookups: BTreeMap<u64, u64>,
    pub(crate) handles: BTreeMap<u64, u64>,
    /// The owner of the lock on each node.
    pub(crate) locks: BTreeMap<u64, u64>,
    pub(crate) running: usize,
    last_fh: u64,
    pub(crate) clients: u64,
    pub(crate) broken: Vec<&'static str>,
}

/// The filesystem. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Scripted {
    state: Arc<Mutex<State>>,
    /// What reads and writes go to.
    file: Option<File>,
}

/// The node that a name leads to.
pub(crate) fn node_of(name: &[u8]) -> NodeId {
    NodeId(100 + u64::from(name[0]))
}

impl Scripted {
    pub(crate) fn on_file(file: File) -> Self {
        Self { file: Some(file), ..Self::default() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn plan(&self, unique: u64, behaviour: Behaviour) {
        self.state().plan.insert(unique, behaviour);
    }

    /// Lets a pending request go on, now or when it comes.
    pub(crate) fn open_gate(&self, unique: u64) {
        let mut state = self.state();
        state.open.insert(unique);
        if let Some(waker) = state.gates.remove(&unique) {
            waker.wake();
        }
    }

    /// Does what the test planned for this request.
    async fn begin(&self, cx: &Context) -> Result<Running> {
        let running = self.enter();
        let behaviour = self.state().plan.remove(&cx.unique).unwrap_or(Behaviour::Instant);
        match behaviour {
            Behaviour::Instant => {}
            Behaviour::Fails(errno) => return Err(errno),
            Behaviour::Pending => {
                let _waits = self.waits(cx, Wait::Gate { stubborn: false });
                tokio::select! {
                    biased;
                    () = self.gate(cx.unique) => {}
                    () = cx.interrupted() => return Err(Errno::EINTR),
                }
            }
            Behaviour::Stubborn => {
                let _waits = self.waits(cx, Wait::Gate { stubborn: true });
                self.gate(cx.unique).await;
            }
            Behaviour::Forever => {
                let _parked = cx.park()?;
                let _waits = self.waits(cx, Wait::Forever);
                cx.interrupted().await;
                return Err(Errno::EINTR);
            }
            Behaviour::Blocking => {
                static SLOW: Mutex<Option<Arc<Cost>>> = Mutex::new(None);
                let cost = SLOW.lock().unwrap().get_or_insert_with(|| Cost::waits().into()).clone();
                let _waits = self.waits(cx, Wait::Pool);
                run(&cost, || std::thread::sleep(Duration::from_micros(110))).await?;
            }
        }
        Ok(running)
    }

    async fn gate(&self, unique: u64) {
        poll_fn(|cx| {
            let mut state = self.state();
            if state.open.remove(&unique) {
                return Poll::Ready(());
            }
            state.gates.insert(unique, cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    async fn lock_is_free(&self, node: NodeId, owner: u64) {
        poll_fn(|cx| {
            let mut state = self.state();
            if state.locks.get(&node.0).is_none_or(|&holder| holder == owner) {
                return Poll::Ready(());
            }
            state.lock_waiters.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn enter(&self) -> Running {
        self.state().running += 1;
        Running(self.clone())
    }

    fn waits(&self, cx: &Context, wait: Wait) -> Waits {
        self.state().waiting.insert(cx.unique, wait);
        Waits(self.clone(), cx.unique)
    }

    fn entry(&self, name: &[u8]) -> Entry {
        let nodeid = node_of(name);
        *self.state().lookups.entry(nodeid.0).or_default() += 1;
        Entry { nodeid, ..Entry::negative(Duration::ZERO) }
    }

    fn opened(&self, nodeid: NodeId) -> Opened {
        let mut state = self.state();
        state.last_fh += 1;
        let fh = state.last_fh;
        state.handles.insert(fh, nodeid.0);
        Opened { fh: Fh(fh), flags: 0 }
    }

    fn close(&self, fh: Fh) -> Result<()> {
        let closed = self.state().handles.remove(&fh.0);
        closed.map(drop).ok_or(Errno::EBADF)
    }

    fn unlock(&self, node: NodeId, owner: u64) {
        let mut state = self.state();
        if state.locks.get(&node.0) == Some(&owner) {
            state.locks.remove(&node.0);
            state.lock_waiters.drain(..).for_each(Waker::wake);
        }
    }
}

/// A request that the filesystem works on.
struct Running(Scripted);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state().running -= 1;
    }
}

/// A request that waits.
struct Waits(Scripted, u64);

impl Drop for Waits {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.waiting.remove(&self.1);
        state.gates.remove(&self.1);
        state.open.remove(&self.1);
    }
}

fn attributes() -> Attributes {
    Attributes { attr: Attr::default(), ttl: Duration::ZERO }
}

impl FileSystem for Scripted {
    fn init(&self, init: &mut Init) {
        init.want(abi::FUSE_POSIX_LOCKS | abi::FUSE_FLOCK_LOCKS | abi::FUSE_DO_READDIRPLUS);
        let mut state = self.state();
        state.clients += 1;
        if state.clients != 1 || state.running != 0 {
            state.broken.push("a client began before the last one had ended");
        }
    }

    fn destroy(&self) {
        let mut state = self.state();
        state.clients -= 1;
        if state.running != 0 {
            state.broken.push("a client ended while its requests ran");
        }
        state.lookups.clear();
        state.handles.clear();
        state.locks.clear();
    }

    fn forget(&self, nodeid: NodeId, nlookup: u64) {
        let mut state = self.state();
        match state.lookups.get(&nodeid.0).map(|&count| count.checked_sub(nlookup)) {
            Some(Some(0)) => drop(state.lookups.remove(&nodeid.0)),
            Some(Some(left)) => drop(state.lookups.insert(nodeid.0, left)),
            _ if state.clients == 0 => {}
            _ => state.broken.push("a lookup was forgotten twice"),
        }
    }

    fn stats(&self) -> Stats {
        let state = self.state();
        Stats {
            inodes: state.lookups.len() as u64 + 1,
            lookups: state.lookups.values().sum(),
            handles: state.handles.len() as u64,
            locks: state.locks.len() as u64,
        }
    }

    async fn lookup(&self, cx: &Context, op: Lookup<'_>) -> Result<Entry> {
        let _running = self.begin(cx).await?;
        match op.name {
            fsrv::LookupName::Name(name) => Ok(self.entry(name.as_bytes())),
            _ => Ok(self.entry(b"dots")),
        }
    }

    async fn symlink(&self, cx: &Context, op: Symlink<'_>) -> Result<Entry> {
        let _running = self.begin(cx).await?;
        Ok(self.entry(op.name.as_bytes()))
    }

    async fn mknod(&self, cx: &Context, op: MkNod<'_>) -> Result<Entry> {
        let _running = self.begin(cx).await?;
        Ok(self.entry(op.name.as_bytes()))
    }

    async fn mkdir(&self, cx: &Context, op: MkDir<'_>) -> Result<Entry> {
        let _running = self.begin(cx).await?;
        Ok(self.entry(op.name.as_bytes()))
    }

    async fn link(&self, cx: &Context, op: Link<'_>) -> Result<Entry> {
        let _running = self.begin(cx).await?;
        Ok(self.entry(op.new_name.as_bytes()))
    }

    async fn create(&self, cx: &Context, op: Create<'_>) -> Result<Created> {
        let _running = self.begin(cx).await?;
        let entry = self.entry(op.name.as_bytes());
        Ok(Created { entry, opened: self.opened(entry.nodeid) })
    }

    async fn tmpfile(&self, cx: &Context, _: TmpFile) -> Result<Created> {
        let _running = self.begin(cx).await?;
        let entry = self.entry(b"tmp");
        Ok(Created { entry, opened: self.opened(entry.nodeid) })
    }

    async fn open(&self, cx: &Context, op: Open) -> Result<Opened> {
        let _running = self.begin(cx).await?;
        Ok(self.opened(op.nodeid))
    }

    async fn opendir(&self, cx: &Context, op: OpenDir) -> Result<Opened> {
        let _running = self.begin(cx).await?;
        Ok(self.opened(op.nodeid))
    }

    /// Takes effect at once: nobody hears of a failure.
    async fn release(&self, cx: &Context, op: Release) -> Result<()> {
        let _running = self.enter();
        self.close(op.fh)?;
        self.begin(cx).await.map(drop)
    }

    async fn releasedir(&self, cx: &Context, op: ReleaseDir) -> Result<()> {
        let _running = self.enter();
        self.close(op.fh)?;
        self.begin(cx).await.map(drop)
    }

    async fn flush(&self, cx: &Context, op: Flush) -> Result<()> {
        let _running = self.enter();
        self.unlock(op.nodeid, op.lock_owner.0);
        self.begin(cx).await.map(drop)
    }

    async fn setlk(&self, cx: &Context, op: SetLk) -> Result<()> {
        let _running = self.enter();
        let (node, owner) = (op.nodeid, op.owner.0);
        if op.lock.kind == LockKind::Unlock {
            self.unlock(node, owner);
            return Ok(());
        }
        let _ran = self.begin(cx).await?;
        loop {
            {
                let mut state = self.state();
                if *state.locks.entry(node.0).or_insert(owner) == owner {
                    return Ok(());
                }
            }
            if !op.wait {
                return Err(Errno::EAGAIN);
            }
            let _parked = cx.park()?;
            let _waits = self.waits(cx, Wait::Lock { node: node.0, owner });
            tokio::select! {
                biased;
                () = cx.interrupted() => return Err(Errno::EINTR),
                () = self.lock_is_free(node, owner) => {}
            }
        }
    }

    async fn readdirplus(&self, cx: &Context, mut op: ReadDirPlus) -> Result<DirPlusBuf> {
        let _running = self.begin(cx).await?;
        for name in [&b"."[..], b"x", b"yy", b"zzz"] {
            if !op.entries.fits(name.len()) {
                break;
            }
            let entry = (name != b".").then(|| self.entry(name));
            op.entries.push(1, 1, 0, name, entry.as_ref()).map_err(|_| Errno::EIO)?;
        }
        Ok(op.entries)
    }

    async fn readdir(&self, cx: &Context, mut op: ReadDir) -> Result<DirBuf> {
        let _running = self.begin(cx).await?;
        op.entries.push(1, 1, 0, b"name").map_err(|_| Errno::EINVAL)?;
        Ok(op.entries)
    }

    async fn read(&self, cx: &Context, mut op: Read) -> Result<Filled> {
        let _running = self.begin(cx).await?;
        if let Some(file) = &self.file {
            return Ok(preadv2(file, op.out, op.offset).await?);
        }
        op.out.append(&b"data"[..op.out.remaining().min(4)]).map_err(|_| Errno::EIO)?;
        Ok(op.out.finish())
    }

    async fn write(&self, cx: &Context, op: Write) -> Result<u32> {
        let _running = self.begin(cx).await?;
        if let Some(file) = &self.file {
            let written = pwritev2(file, op.data, WriteAt::Offset(op.offset)).await?;
            return Ok(u32::try_from(written).unwrap_or(u32::MAX));
        }
        Ok(u32::try_from(op.data.len()).unwrap_or(u32::MAX))
    }

    async fn getattr(&self, cx: &Context, _: GetAttr) -> Result<Attributes> {
        let _running = self.begin(cx).await?;
        Ok(attributes())
    }

    async fn setattr(&self, cx: &Context, _: SetAttr) -> Result<Attributes> {
        let _running = self.begin(cx).await?;
        Ok(attributes())
    }

    async fn statfs(&self, cx: &Context, _: GetStatFs) -> Result<StatFs> {
        let _running = self.begin(cx).await?;
        Ok(StatFs::default())
    }

    async fn getxattr(&self, cx: &Context, _: GetXattr<'_>) -> Result<Xattr> {
        let _running = self.begin(cx).await?;
        Ok(Xattr::Size(7))
    }

    async fn unlink(&self, cx: &Context, _: Unlink<'_>) -> Result<()> {
        self.begin(cx).await.map(drop)
    }

    async fn rename(&self, cx: &Context, _: Rename<'_>) -> Result<()> {
        self.begin(cx).await.map(drop)
    }

    async fn fsync(&self, cx: &Context, _: Fsync) -> Result<()> {
        self.begin(cx).await.map(drop)
    }

    async fn setxattr(&self, cx: &Context, _: SetXattr<'_>) -> Result<()> {
        self.begin(cx).await.map(drop)
    }

    async fn fallocate(&self, cx: &Context, _: Fallocate) -> Result<()> {
        self.begin(cx).await.map(drop)
    }

    async fn copy_file_range(&self, cx: &Context, op: CopyFileRange) -> Result<u64> {
        let _running = self.begin(cx).await?;
        Ok(op.len)
    }

    async fn poll(&self, cx: &Context, _: PollEvents) -> Result<Events> {
        let _running = self.begin(cx).await?;
        Ok(Events(1))
    }
}
