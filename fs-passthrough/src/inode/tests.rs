use super::{
    super::sync::check::{orders, thread},
    *,
};
use crate::{config::InodeFileHandles, mount::Mounts};

/// A directory of the host with one file in it.
struct Place {
    dir: tempfile::TempDir,
    mount: Arc<Mount>,
}

impl Place {
    fn new(handles: InodeFileHandles) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let root = open(dir.path());
        let stat = Stat::of(&root).unwrap();
        let mount = Mounts::new(handles).of(&root, stat.mount, None);
        mount.handle_of(&root, &stat);
        assert_eq!(mount.has_handles(), handles == InodeFileHandles::Prefer);
        Self { dir, mount }
    }

    fn find(&self, fd: OwnedFd) -> Found {
        let stat = Stat::of(&fd).unwrap();
        let (mount, handle) = (self.mount.clone(), self.mount.handle_of(&fd, &stat));
        Found { fd, stat, mount, handle, is_stale: false }
    }

    fn root(&self) -> Found {
        self.find(open(self.dir.path()))
    }

    fn file(&self) -> Found {
        self.find(open(&self.dir.path().join("file")))
    }
}

fn open(path: &std::path::Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap()
}

/// A table and the file, in each way of holding it and every order of what `test` starts.
fn orders_by_handle(test: impl Fn(Arc<Inodes>, Arc<Place>) + Copy + Send + Sync + 'static) {
    orders_with(InodeFileHandles::Prefer, test);
}

fn orders_by_fd(test: impl Fn(Arc<Inodes>, Arc<Place>) + Copy + Send + Sync + 'static) {
    orders_with(InodeFileHandles::Never, test);
}

fn orders_with(
    handles: InodeFileHandles,
    test: impl Fn(Arc<Inodes>, Arc<Place>) + Copy + Send + Sync + 'static,
) {
    let place = Arc::new(Place::new(handles));
    let descriptors = Descriptors::new(1000, true);
    orders(move || {
        test(Arc::new(Inodes::new(place.root(), descriptors.clone())), place.clone());
    });
}

/// The client knows the file by this number alone, and took it up so often.
fn assert_known(inodes: &Inodes, place: &Place, nodeid: NodeId, lookups: u64) {
    assert_eq!(inodes.count(), (2, lookups));
    assert!(inodes.get(nodeid).is_some_and(|inode| inode.is(&place.file())));
    assert!(inodes.knows(&place.file()));
    assert_eq!(held_by_fd(inodes), usize::from(!place.mount.has_handles()));
}

fn held_by_fd(inodes: &Inodes) -> usize {
    inodes.held_by_fd(NodeId::ROOT, 10).len()
}

fn assert_unknown(inodes: &Inodes, place: &Place) {
    assert_eq!(inodes.count(), (1, 0));
    assert!(!inodes.knows(&place.file()));
    assert_eq!(held_by_fd(inodes), 0);
}

fn one_number_for_both(inodes: Arc<Inodes>, place: Arc<Place>) {
    let (theirs, found) = (inodes.clone(), place.file());
    let other = thread::spawn(move || theirs.enter(found, None).nodeid);
    let nodeid = inodes.enter(place.file(), None).nodeid;
    assert_eq!(other.join().unwrap(), nodeid);
    assert_known(&inodes, &place, nodeid, 2);
    assert!(inodes.forget(nodeid, 2, true));
    assert_unknown(&inodes, &place);
}

#[test]
fn two_lookups_at_once_give_one_number() {
    orders_by_handle(one_number_for_both);
    orders_by_fd(one_number_for_both);
}

fn known_after_both(inodes: Arc<Inodes>, place: Arc<Place>) {
    let first = inodes.enter(place.file(), None).nodeid;
    let theirs = inodes.clone();
    let other = thread::spawn(move || theirs.forget(first, 1, true));
    let again = inodes.enter(place.file(), None).nodeid;
    let forgotten = other.join().unwrap();
    assert_known(&inodes, &place, again, 1);
    if !forgotten {
        assert_eq!(first, again);
        assert!(inodes.forget(again, 1, true));
        assert_unknown(&inodes, &place);
    }
}

#[test]
fn a_file_looked_up_while_it_is_forgotten_is_known() {
    orders_by_handle(known_after_both);
    orders_by_fd(known_after_both);
}

#[test]
fn a_file_that_is_remembered_keeps_its_number_when_it_is_looked_up_meanwhile() {
    orders_by_handle(|inodes, place| {
        let first = inodes.enter(place.file(), None).nodeid;
        let theirs = inodes.clone();
        let other = thread::spawn(move || theirs.forget(first, 1, true));
        assert_eq!(inodes.enter(place.file(), None).nodeid, first);
        other.join().unwrap();
    });
}

fn gone_after_two(inodes: Arc<Inodes>, place: Arc<Place>) {
    let nodeid = inodes.enter(place.file(), None).nodeid;
    inodes.enter(place.file(), None);
    let theirs = inodes.clone();
    let other = thread::spawn(move || theirs.forget(nodeid, 1, true));
    let last = inodes.forget(nodeid, 1, true);
    assert_ne!(other.join().unwrap(), last, "one of the two is the last");
    assert_unknown(&inodes, &place);
    assert!(inodes.get(nodeid).is_none());
}

#[test]
fn of_two_forgets_at_once_one_is_the_last() {
    orders_by_handle(gone_after_two);
    orders_by_fd(gone_after_two);
}

fn nothing_left(inodes: Arc<Inodes>, place: Arc<Place>) {
    let nodeid = inodes.enter(place.file(), None).nodeid;
    let theirs = inodes.clone();
    let other = thread::spawn(move || theirs.forget(nodeid, 1, true));
    inodes.clear();
    other.join().unwrap();
    assert_unknown(&inodes, &place);
    assert!(inodes.get(nodeid).is_none());
    // The next client counts its own.
    let nodeid = inodes.enter(place.file(), None).nodeid;
    assert_known(&inodes, &place, nodeid, 1);
}

#[test]
fn a_forget_at_the_end_of_a_client_leaves_nothing_and_takes_nothing_of_the_next() {
    orders_by_handle(nothing_left);
    orders_by_fd(nothing_left);
}
