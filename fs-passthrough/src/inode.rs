//! The files that the client knows.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use fsrv::{Attr, NodeId};
use hashbrown::HashTable;
use rustix::fs::OFlags;

use super::sync::{AtomicBool, AtomicU64, Mutex, Ordering, RandomState, lock};
use crate::{
    descriptors::{Descriptors, Held, Share},
    mount::Mount,
    suid::has_suid,
    sys::{handle::FileHandle, stat::Stat},
};

/// A file that the client knows.
pub(crate) struct Inode {
    pub(crate) nodeid: NodeId,
    pub(crate) mount: Arc<Mount>,
    identity: Identity,
    pub(crate) generation: u64,
    /// [`Found::number`] and the device, by which one held by a descriptor is found.
    number: u64,
    dev: u32,
    /// The bits of the mode that are the file type.
    kind: u32,
    /// Lookups that the client has not taken back. Changed only under the lock of its shard.
    lookups: AtomicU64,
    /// [`Stat::version`] when the client last opened it, 0 for never.
    version: AtomicU64,
    /// Suid or sgid was set when last seen.
    has_suid: AtomicBool,
    /// How often the client has it open for writing.
    writers: AtomicU64,
}

/// How the file is found again.
enum Identity {
    /// Nothing pins it: by its handle.
    Handle(FileHandle),
    /// By an O_PATH descriptor, which pins it. It is taken only to close it.
    Fd(Option<Held>),
    /// The root: by the descriptor that it was given as, and known by its handle as well.
    Root(OwnedFd, FileHandle),
}

/// A file on the host, looked up and not yet known to the client.
pub(crate) struct Found {
    pub(crate) fd: OwnedFd,
    pub(crate) stat: Stat,
    pub(crate) mount: Arc<Mount>,
    pub(crate) handle: Option<FileHandle>,
    /// The attributes are what the host's kernel happens to know.
    pub(crate) is_stale: bool,
}

impl Found {
    /// What tells it from other files of its mount and device: the inode number. That of the root of a remote mount changes
    /// when its filesystem is first asked, and is taken for 0.
    fn number(&self) -> u64 {
        let is_known_late = self.mount.is_remote() && self.stat.is_mount_root();
        if is_known_late { 0 } else { self.stat.attr.ino }
    }
}

impl Inode {
    fn new(nodeid: NodeId, found: Found, lookups: u64, descriptors: &Arc<Descriptors>) -> Self {
        let number = found.number();
        let Found { fd, stat, mount, handle, .. } = found;
        let generation = match &handle {
            Some(handle) => handle.generation(),
            // The time of creation tells two lives of one inode number apart as well.
            None => {
                stat.btime.map_or(0, |time| (time.sec.cast_unsigned() << 30) ^ u64::from(time.nsec))
            }
        };
        Self {
            nodeid,
            mount,
            identity: match handle {
                None => Identity::Fd(Some(Held::new(fd, descriptors.take_anyway(Share::Known)))),
                Some(handle) if nodeid == NodeId::ROOT => Identity::Root(fd, handle),
                Some(handle) => Identity::Handle(handle),
            },
            generation,
            number,
            dev: stat.dev,
            kind: stat.attr.file_type(),
            lookups: AtomicU64::new(lookups),
            version: AtomicU64::new(0),
            has_suid: AtomicBool::new(false),
            writers: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind == Attr::DIRECTORY
    }

    pub(crate) fn is_regular(&self) -> bool {
        self.kind == Attr::REGULAR
    }

    /// Whether no descriptor pins it.
    pub(crate) fn is_held_by_handle(&self) -> bool {
        matches!(self.identity, Identity::Handle(_))
    }

    /// Its own O_PATH descriptor, if it has one.
    pub(crate) fn own_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.identity {
            Identity::Fd(fd) => fd.as_ref().map(|fd| fd.as_fd()),
            Identity::Root(fd, _) => Some(fd.as_fd()),
            Identity::Handle(_) => None,
        }
    }

    /// Opens it by its handle.
    pub(crate) fn open_by_handle(&self, flags: OFlags) -> io::Result<OwnedFd> {
        match &self.identity {
            Identity::Handle(handle) => self.mount.open(handle, flags),
            Identity::Fd(_) | Identity::Root(..) => {
                Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
            }
        }
    }

    /// Notes what was seen of it.
    pub(crate) fn saw(&self, stat: &Stat) {
        self.saw_blocks(stat.attr.blocks);
        let has_suid = has_suid(&stat.attr);
        if has_suid != self.has_suid.load(Ordering::Relaxed) {
            self.has_suid.store(has_suid, Ordering::Relaxed);
        }
    }

    /// Notes how many blocks of 512 bytes it has: a large one is not closed in passing.
    pub(crate) fn saw_blocks(&self, blocks: u64) {
        // Closing on a remote mount waits for that, whatever the size.
        if let Identity::Fd(Some(fd)) = &self.identity
            && !self.mount.is_remote()
        {
            fd.saw_blocks(blocks);
        }
    }

    pub(crate) fn set_suid(&self) {
        self.has_suid.store(true, Ordering::Relaxed);
    }

    /// Whether suid or sgid was set when last seen.
    pub(crate) fn has_suid(&self) -> bool {
        self.has_suid.load(Ordering::Relaxed)
    }

    /// Notes that the client has opened it for writing.
    pub(crate) fn add_writer(&self) {
        self.writers.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes back an [`Inode::add_writer`].
    pub(crate) fn remove_writer(&self) {
        self.writers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the client has it open for writing.
    pub(crate) fn has_writers(&self) -> bool {
        self.writers.load(Ordering::Relaxed) > 0
    }

    /// Whether the content is what it was when this was last asked.
    pub(crate) fn is_unchanged(&self, stat: &Stat) -> bool {
        let version = stat.version();
        self.version.swap(version, Ordering::Relaxed) == version
    }

    fn is(&self, found: &Found) -> bool {
        self.mount.id == found.mount.id
            && match (&self.identity, &found.handle) {
                (Identity::Handle(known) | Identity::Root(_, known), Some(handle)) => {
                    known == handle
                }
                (Identity::Fd(_), None) => {
                    (self.number, self.dev) == (found.number(), found.stat.dev)
                }
                _ => false,
            }
    }
}

impl Drop for Inode {
    /// The last descriptor of a file of another machine may have something to tell it.
    fn drop(&mut self) {
        if let Identity::Fd(fd) = &mut self.identity
            && !self.mount.is_open_to_all()
            && let (Some(fd), Some(remote)) = (fd.take(), self.mount.remote())
        {
            remote.later(move || drop(fd));
        }
    }
}

const SHARDS: usize = 16;

/// The most files remembered that the client has forgotten: a client that exports its mount (NFS)
/// may ask for one by the number that it had.
const FORGOTTEN_MAX: usize = 1 << 16;

/// All files that the client knows, by node id and by what they are on the host.
pub(crate) struct Inodes {
    hasher: RandomState,
    by_file: [Mutex<HashTable<Arc<Inode>>>; SHARDS],
    by_id: [Mutex<HashTable<Arc<Inode>>>; SHARDS],
    root: Arc<Inode>,
    /// The inode number of the root on the host.
    root_ino: u64,
    next: AtomicU64,
    forgotten: Mutex<Forgotten>,
    descriptors: Arc<Descriptors>,
}

#[derive(Default)]
struct Forgotten {
    files: HashMap<NodeId, (Arc<Mount>, FileHandle)>,
    /// The same the other way round: a file keeps its number when it is found again by name.
    nodes: HashMap<(u64, FileHandle), NodeId>,
    order: VecDeque<NodeId>,
}

impl Inodes {
    pub(crate) fn new(root: Found, descriptors: Arc<Descriptors>) -> Self {
        let inodes = Self {
            root_ino: root.stat.attr.ino,
            hasher: RandomState::new(),
            by_file: Default::default(),
            by_id: Default::default(),
            root: Arc::new(Inode::new(NodeId::ROOT, root, 1, &descriptors)),
            next: AtomicU64::new(NodeId::ROOT.0 + 1),
            forgotten: Mutex::default(),
            descriptors,
        };
        inodes.insert(inodes.root.clone());
        inodes
    }

    pub(crate) fn root(&self) -> &Arc<Inode> {
        &self.root
    }

    /// The inode number of the root on the host.
    pub(crate) fn root_ino(&self) -> u64 {
        self.root_ino
    }

    /// The file that the client calls `nodeid`.
    pub(crate) fn get(&self, nodeid: NodeId) -> Option<Arc<Inode>> {
        if nodeid == NodeId::ROOT {
            return Some(self.root.clone());
        }
        let hash = self.hash_id(nodeid);
        lock(&self.by_id[shard(hash)]).find(hash, |inode| inode.nodeid == nodeid).cloned()
    }

    /// Gives a file to the client: one more lookup of it. One that is not known gets `nodeid`, which
    /// the client remembers, or a new number.
    pub(crate) fn enter(&self, found: Found, nodeid: Option<NodeId>) -> Arc<Inode> {
        let hash = self.hash_file(&found);
        let mut by_file = lock(&self.by_file[shard(hash)]);
        if let Some(inode) = by_file.find(hash, |inode| inode.is(&found)) {
            if inode.nodeid != NodeId::ROOT {
                inode.lookups.fetch_add(1, Ordering::Relaxed);
            }
            return inode.clone();
        }
        let nodeid = nodeid
            .or_else(|| lock(&self.forgotten).nodeid(&found))
            .unwrap_or_else(|| NodeId(self.next.fetch_add(1, Ordering::Relaxed)));
        let inode = Arc::new(Inode::new(nodeid, found, 1, &self.descriptors));
        self.insert_by_id(inode.clone());
        by_file.insert_unique(hash, inode.clone(), |inode| self.hash_inode(inode));
        inode
    }

    /// Whether the client knows the file.
    pub(crate) fn knows(&self, found: &Found) -> bool {
        let hash = self.hash_file(found);
        lock(&self.by_file[shard(hash)]).find(hash, |inode| inode.is(found)).is_some()
    }

    /// The node id of a file that the client knows and nothing pins.
    pub(crate) fn unpinned(&self, found: &Found) -> Option<NodeId> {
        let hash = self.hash_file(found);
        let by_file = lock(&self.by_file[shard(hash)]);
        let inode = by_file.find(hash, |inode| inode.is(found))?;
        inode.is_held_by_handle().then_some(inode.nodeid)
    }

    /// Takes `count` lookups back. Returns whether the client no longer knows the file.
    pub(crate) fn forget(&self, nodeid: NodeId, count: u64, remember: bool) -> bool {
        if nodeid == NodeId::ROOT {
            return false;
        }
        let Some(inode) = self.get(nodeid) else { return false };
        let hash = self.hash_inode(&inode);
        let mut by_file = lock(&self.by_file[shard(hash)]);
        let lookups = inode.lookups.load(Ordering::Relaxed);
        inode.lookups.store(lookups.saturating_sub(count), Ordering::Relaxed);
        if lookups == 0 || lookups > count {
            return false;
        }
        match by_file.find_entry(hash, |known| Arc::ptr_eq(known, &inode)) {
            Ok(entry) => drop(entry.remove()),
            // The client has just ended, and everything with it.
            Err(_) => return false,
        }
        shrink(&mut by_file, |inode| self.hash_inode(inode));
        self.remove_by_id(nodeid);
        // Before others may find that the file is not known: they would give it another number.
        if remember && let Identity::Handle(handle) = &inode.identity {
            lock(&self.forgotten).remember(nodeid, &inode.mount, handle);
        }
        drop(by_file);
        true
    }

    /// The mount of a file that the client has forgotten and asks for again.
    ///
    /// # Errors
    /// ESTALE when it is not remembered.
    pub(crate) fn forgotten_mount(&self, nodeid: NodeId) -> io::Result<Arc<Mount>> {
        let forgotten = lock(&self.forgotten);
        let known = forgotten.files.get(&nodeid).map(|(mount, _)| mount.clone());
        known.ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    /// A file that the client has forgotten and asks for again, opened by O_PATH.
    pub(crate) fn reopen_forgotten(&self, nodeid: NodeId) -> io::Result<OwnedFd> {
        let forgotten = lock(&self.forgotten).files.get(&nodeid).cloned();
        let Some((mount, handle)) = forgotten else {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        };
        mount.open(&handle, OFlags::PATH)
    }

    /// Forgets everything but the root.
    pub(crate) fn clear(&self) {
        self.by_file.iter().for_each(|shard| drop(std::mem::take(&mut *lock(shard))));
        self.by_id.iter().for_each(|shard| drop(std::mem::take(&mut *lock(shard))));
        *lock(&self.forgotten) = Forgotten::default();
        self.insert(self.root.clone());
    }

    /// Files known, and lookups not taken back.
    pub(crate) fn count(&self) -> (u64, u64) {
        let mut count = (0, 0);
        for shard in &self.by_id {
            for inode in lock(shard).iter() {
                count.0 += 1;
                if inode.nodeid != NodeId::ROOT {
                    count.1 += inode.lookups.load(Ordering::Relaxed);
                }
            }
        }
        count
    }

    /// Up to `max` files that are held by a descriptor, the oldest first of those that are younger than `after`.
    pub(crate) fn held_by_fd(&self, after: NodeId, max: usize) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = Vec::new();
        let is_meant = |inode: &&Arc<Inode>| !inode.is_held_by_handle() && inode.nodeid > after;
        for shard in &self.by_id {
            nodes.extend(lock(shard).iter().filter(is_meant).map(|inode| inode.nodeid));
        }
        nodes.sort_unstable();
        nodes.truncate(max);
        nodes
    }

    fn insert(&self, inode: Arc<Inode>) {
        let hash = self.hash_inode(&inode);
        self.insert_by_id(inode.clone());
        lock(&self.by_file[shard(hash)]).insert_unique(hash, inode, |inode| self.hash_inode(inode));
    }

    fn insert_by_id(&self, inode: Arc<Inode>) {
        let hash = self.hash_id(inode.nodeid);
        lock(&self.by_id[shard(hash)])
            .insert_unique(hash, inode, |inode| self.hash_id(inode.nodeid));
    }

    fn remove_by_id(&self, nodeid: NodeId) {
        let hash = self.hash_id(nodeid);
        let mut by_id = lock(&self.by_id[shard(hash)]);
        if let Ok(entry) = by_id.find_entry(hash, |inode| inode.nodeid == nodeid) {
            entry.remove();
        }
        shrink(&mut by_id, |inode| self.hash_id(inode.nodeid));
    }

    fn hash_id(&self, nodeid: NodeId) -> u64 {
        self.hasher.hash_one(nodeid)
    }

    fn hash_file(&self, found: &Found) -> u64 {
        match &found.handle {
            Some(handle) => self.hasher.hash_one((found.mount.id, handle)),
            None => self.hasher.hash_one((found.mount.id, found.number(), found.stat.dev)),
        }
    }

    fn hash_inode(&self, inode: &Inode) -> u64 {
        match &inode.identity {
            Identity::Handle(handle) | Identity::Root(_, handle) => {
                self.hasher.hash_one((inode.mount.id, handle))
            }
            Identity::Fd(_) => self.hasher.hash_one((inode.mount.id, inode.number, inode.dev)),
        }
    }
}

impl Forgotten {
    fn remember(&mut self, nodeid: NodeId, mount: &Arc<Mount>, handle: &FileHandle) {
        if self.files.insert(nodeid, (mount.clone(), handle.clone())).is_some() {
            return;
        }
        self.nodes.insert((mount.id, handle.clone()), nodeid);
        if self.order.len() == FORGOTTEN_MAX
            && let Some(oldest) = self.order.pop_front()
            && let Some((mount, handle)) = self.files.remove(&oldest)
        {
            let file = (mount.id, handle);
            // It may have had another number since.
            if self.nodes.get(&file) == Some(&oldest) {
                self.nodes.remove(&file);
            }
        }
        self.order.push_back(nodeid);
    }

    fn nodeid(&self, found: &Found) -> Option<NodeId> {
        if self.nodes.is_empty() {
            return None;
        }
        self.nodes.get(&(found.mount.id, found.handle.clone()?)).copied()
    }
}

/// Gives memory back after a client forgot most of what it knew.
fn shrink(table: &mut HashTable<Arc<Inode>>, hash: impl Fn(&Arc<Inode>) -> u64) {
    if table.capacity() > 1024 && table.len() < table.capacity() / 4 {
        table.shrink_to(table.len() * 2, hash);
    }
}

/// The top bits choose the shard; the tables use the others.
fn shard(hash: u64) -> usize {
    (hash >> 48) as usize % SHARDS
}

#[cfg(test)]
#[path = "inode/tests.rs"]
mod tests;
