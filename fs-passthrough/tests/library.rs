//! A directory served to a client in memory, which may do what no kernel does.

use std::{fs, future::Future, os::unix::fs::symlink, path::Path, time::Duration};

use fsrv::{
    Attr, Errno, Fh, Limits, NodeId, Session,
    abi::*,
    serve,
    testing::{TestClient, ask},
};
use fsrv_passthrough::{Config, InodeFileHandles, Passthrough};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Resource, Rlimit, setrlimit};

/// Serves a new directory to `test`, in both ways of holding files, and looks that nothing is left.
fn serving<F, T>(test: F)
where
    F: Fn(TestClient, tempfile::TempDir) -> T,
    T: Future<Output = tempfile::TempDir>,
{
    serving_at(std::env::temp_dir(), test);
}

/// The same, with the directory in `place`.
fn serving_at<F, T>(place: impl AsRef<Path>, test: F)
where
    F: Fn(TestClient, tempfile::TempDir) -> T,
    T: Future<Output = tempfile::TempDir>,
{
    for inode_file_handles in [InodeFileHandles::Never, InodeFileHandles::Prefer] {
        serving_by(inode_file_handles, place.as_ref(), &test);
    }
}

/// The same in one of them.
fn serving_by<F, T>(inode_file_handles: InodeFileHandles, place: &Path, test: F)
where
    F: Fn(TestClient, tempfile::TempDir) -> T,
    T: Future<Output = tempfile::TempDir>,
{
    let dir = tempfile::tempdir_in(place).unwrap();
    let config = Config { inode_file_handles, ..Config::default() };
    let root = fs::File::open(dir.path()).unwrap();
    let session = Session::new(Passthrough::new(root.into(), config).unwrap(), Limits::default());
    let client = TestClient::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = serve(client.transport(16), &session);
        let test = async {
            client.init().await.unwrap();
            let dir = test(client.clone(), dir).await;
            client.hang_up();
            dir
        };
        let (served, _dir) = futures::join!(server, test);
        served.unwrap();
    });
    let held = session.stats().held;
    assert_eq!((held.inodes, held.lookups, held.handles, held.locks), (1, 0, 0, 0));
    assert_eq!(client.violations(), Vec::<&str>::new());
}

#[test]
fn a_file_is_created_written_and_read_back() {
    serving(|client, dir| async move {
        let (entry, fh) = client.create(NodeId::ROOT, "file", 0o2, 0o644).await.unwrap();
        let node = NodeId(entry.nodeid);
        assert_eq!(client.write(node, fh, 3, b"content").await, Ok(7));
        assert_eq!(client.read(node, fh, 0, 100).await.unwrap(), b"\0\0\0content");
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"\0\0\0content");
        client.release(node, fh).await.unwrap();
        assert_eq!(client.read(node, fh, 0, 100).await, Err(Errno::EBADF));
        dir
    });
}

/// In memory: freeing takes a CPU and nothing else.
const MEMORY: &str = "/dev/shm";

const LARGE: usize = 128 << 20;

/// How long this thread was on a CPU so far.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// How long this thread is on a CPU when it frees a large file itself.
fn time_to_free(dir: &Path) -> Duration {
    let path = dir.join("native");
    fs::write(&path, vec![b'x'; LARGE]).unwrap();
    let before = cpu_time();
    fs::remove_file(&path).unwrap();
    cpu_time() - before
}

async fn takes_little(limit: Duration, what: &str, act: impl Future<Output = ()>) {
    let before = cpu_time();
    act.await;
    let took = cpu_time() - before;
    assert!(took < limit, "{what}: {took:?} of {limit:?}");
}

#[test]
fn what_frees_much_frees_it_on_another_thread() {
    serving_at(MEMORY, |client, dir| async move {
        let limit = time_to_free(dir.path()) / 3;
        let path = |name: &str| dir.path().join(name);
        for name in ["unlinked", "replaced", "cut", "emptied", "closed"] {
            fs::write(path(name), vec![b'x'; LARGE]).unwrap();
        }
        for name in ["small", "grows"] {
            fs::write(path(name), "content").unwrap();
        }
        let lookup =
            async |name: &str| NodeId(client.lookup(NodeId::ROOT, name).await.unwrap().nodeid);
        let unlink = async |name: &str| client.unlink(NodeId::ROOT, name).await.unwrap();

        let unlinked = lookup("unlinked").await;
        takes_little(limit, "unlink", unlink("unlinked")).await;
        takes_little(limit, "forget", client.forget(unlinked, 1)).await;

        let replaced = lookup("replaced").await;
        let newdir = fuse_rename_in { newdir: 1 };
        let rename = ask(12, NodeId::ROOT).arg(&newdir).name("small").name("replaced");
        takes_little(limit, "rename", async { drop(client.request(rename).await.unwrap()) }).await;
        takes_little(limit, "forget", client.forget(replaced, 1)).await;

        let cut = lookup("cut").await;
        let size = fuse_setattr_in { valid: FATTR_SIZE, size: 1, ..Default::default() };
        let setattr = async { assert_eq!(client.setattr(cut, size).await.unwrap().size, 1) };
        takes_little(limit, "cut", setattr).await;
        client.forget(cut, 1).await;

        let emptied = lookup("emptied").await;
        let before = cpu_time();
        let fh = client.open(emptied, 0o1001).await.unwrap();
        assert!(cpu_time() - before < limit, "O_TRUNC: {:?} of {limit:?}", cpu_time() - before);
        client.release(emptied, fh).await.unwrap();
        client.forget(emptied, 1).await;

        let closed = lookup("closed").await;
        let fh = client.open(closed, 0).await.unwrap();
        takes_little(limit, "unlink", unlink("closed")).await;
        takes_little(limit, "release", async { client.release(closed, fh).await.unwrap() }).await;
        takes_little(limit, "forget", client.forget(closed, 1)).await;

        // A small one that was removed is held for the client.
        let grows = lookup("grows").await;
        let fh = client.open(grows, 1).await.unwrap();
        unlink("grows").await;
        let data = vec![b'x'; 1 << 20];
        for at in 0..LARGE / data.len() {
            client.write(grows, fh, (at * data.len()) as u64, &data).await.unwrap();
        }
        takes_little(limit, "release", async { client.release(grows, fh).await.unwrap() }).await;
        takes_little(limit, "forget", client.forget(grows, 1)).await;

        assert_eq!(fs::read(path("replaced")).unwrap(), b"content");
        assert_eq!(fs::read(path("cut")).unwrap(), b"x");
        assert_eq!(fs::read(path("emptied")).unwrap(), b"");
        dir
    });
}

const LITTLE: usize = 32 << 20;

/// A little filesystem with room for four inodes, at a directory until the value is dropped.
struct LittleRoom(tempfile::TempDir);

impl LittleRoom {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={LITTLE},nr_inodes=4\0");
        let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).unwrap();
        mount("test", dir.path(), "tmpfs", MountFlags::empty(), Some(options)).expect("root");
        Self(dir)
    }
}

impl Drop for LittleRoom {
    fn drop(&mut self) {
        // A test that panics already says more.
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn nobody_is_told_that_there_is_no_room_while_a_removed_file_is_being_freed() {
    let place = LittleRoom::new();
    serving_at(place.0.path(), |client, dir| async move {
        let (entry, fh) = client.create(NodeId::ROOT, "file", 0o2, 0o644).await.unwrap();
        let file = NodeId(entry.nodeid);
        let link = fuse_link_in { oldnodeid: entry.nodeid };
        let space = fuse_fallocate_in { fh: fh.0, length: 1 << 20, ..Default::default() };
        let mode = fuse_mknod_in { mode: 0o100_644, ..Default::default() };
        let mknod = ask(8, NodeId::ROOT).arg(&mode).name("made");
        let cut = fuse_setattr_in { valid: FATTR_SIZE, ..Default::default() };
        let mut denied = Vec::new();
        for op in ["write", "fallocate", "mkdir", "symlink", "mknod", "create", "link", "statfs"] {
            let large = dir.path().join("large");
            // It is full when that is written, and has no inode left.
            let filled = fs::write(&large, vec![b'x'; LITTLE + 1]);
            assert_eq!(filled.unwrap_err().raw_os_error(), Some(libc::ENOSPC), "{op}");
            let node = NodeId(client.lookup(NodeId::ROOT, "large").await.unwrap().nodeid);
            client.unlink(NodeId::ROOT, "large").await.unwrap();
            client.forget(node, 1).await;
            let made = match op {
                "write" => client.write(file, fh, 0, &vec![1; 1 << 20]).await.map(drop),
                "fallocate" => client.request(ask(43, file).arg(&space)).await.map(drop),
                "mkdir" => client.mkdir(NodeId::ROOT, "made", 0o755).await.map(drop),
                "symlink" => {
                    let symlink = ask(6, NodeId::ROOT).name("made").name("target");
                    client.request(symlink).await.map(drop)
                }
                "mknod" => client.request(mknod.clone()).await.map(drop),
                "create" => match client.create(NodeId::ROOT, "made", 2, 0o644).await {
                    Ok((entry, fh)) => client.release(NodeId(entry.nodeid), fh).await,
                    Err(errno) => Err(errno),
                },
                "link" => {
                    let link = ask(13, NodeId::ROOT).arg(&link).name("made");
                    client.request(link).await.map(drop)
                }
                _ => {
                    let statfs: fuse_kstatfs = client.request(ask(17, file)).await.unwrap().get();
                    let is_free = statfs.bavail * u64::from(statfs.bsize) > LITTLE as u64 / 2;
                    if is_free { Ok(()) } else { Err(Errno::ENOSPC) }
                }
            };
            if let Err(errno) = made {
                denied.push((op, errno));
            }
            // So that the next one needs as much.
            client.setattr(file, cut).await.unwrap();
            if let Ok(made) = client.lookup(NodeId::ROOT, "made").await {
                let lookups = if matches!(op, "write" | "fallocate" | "statfs") { 1 } else { 2 };
                match op {
                    "mkdir" => client.rmdir(NodeId::ROOT, "made").await.unwrap(),
                    _ => client.unlink(NodeId::ROOT, "made").await.unwrap(),
                }
                client.forget(NodeId(made.nodeid), lookups).await;
            }
            // The large one is gone for good.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(denied, []);
        client.release(file, fh).await.unwrap();
        client.forget(file, 1).await;
        dir
    });
}

#[test]
fn a_file_that_may_not_grow_sends_no_signal_to_the_process_that_embeds_us() {
    const LIMIT: u64 = 1 << 30;
    let limit = Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
    setrlimit(Resource::Fsize, limit).unwrap();
    serving(|client, dir| async move {
        let before = signals();
        let (entry, fh) = client.create(NodeId::ROOT, "file", 0o2, 0o644).await.unwrap();
        let node = NodeId(entry.nodeid);
        let size = fuse_setattr_in { valid: FATTR_SIZE, size: LIMIT + 1, ..Default::default() };
        for _ in 0..2 {
            assert_eq!(client.write(node, fh, LIMIT, b"content").await, Err(Errno::EFBIG));
            assert_eq!(client.setattr(node, size).await.unwrap_err(), Errno::EFBIG);
        }
        assert_eq!(signals(), before);
        client.release(node, fh).await.unwrap();
        client.forget(node, 1).await;
        dir
    });
}

/// What signals wait for this thread, and what becomes of each.
fn signals() -> Vec<String> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let of_signals = status.lines().filter(|line| line.starts_with("Sig"));
    // How many signals wait for all processes of the user is not ours to know.
    of_signals.filter(|line| !line.starts_with("SigQ")).map(str::to_owned).collect()
}

#[test]
fn a_forgotten_file_is_unknown_and_another_one_does_not_get_its_number() {
    serving(|client, dir| async move {
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        let first = client.lookup(NodeId::ROOT, "file").await.unwrap().nodeid;
        assert_eq!(client.lookup(NodeId::ROOT, "file").await.unwrap().nodeid, first);
        client.forget(NodeId(first), 2).await;
        assert_eq!(client.getattr(NodeId(first)).await.unwrap_err(), Errno::ESTALE);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert_ne!(client.lookup(NodeId::ROOT, "file").await.unwrap().nodeid, first);
        dir
    });
}

#[test]
fn an_exported_file_keeps_its_number_when_it_was_forgotten() {
    serving_by(InodeFileHandles::Prefer, &std::env::temp_dir(), |client, dir| async move {
        fs::write(dir.path().join("file"), "").unwrap();
        let first = client.lookup(NodeId::ROOT, "file").await.unwrap();
        client.forget(NodeId(first.nodeid), 1).await;
        let again = client.lookup(NodeId(first.nodeid), ".").await.unwrap();
        assert_eq!((again.nodeid, again.generation), (first.nodeid, first.generation));
        let by_name = client.lookup(NodeId::ROOT, "file").await.unwrap();
        assert_eq!(by_name.nodeid, first.nodeid);
        dir
    });
}

#[test]
fn a_forgotten_file_that_was_held_by_a_descriptor_is_stale() {
    serving_by(InodeFileHandles::Never, &std::env::temp_dir(), |client, dir| async move {
        fs::write(dir.path().join("file"), "").unwrap();
        let first = client.lookup(NodeId::ROOT, "file").await.unwrap();
        client.forget(NodeId(first.nodeid), 1).await;
        let again = client.lookup(NodeId(first.nodeid), ".").await;
        assert_eq!(again.unwrap_err(), Errno::ESTALE);
        dir
    });
}

#[test]
fn more_forgets_than_lookups_do_no_harm() {
    serving(|client, dir| async move {
        fs::write(dir.path().join("file"), "").unwrap();
        let node = NodeId(client.lookup(NodeId::ROOT, "file").await.unwrap().nodeid);
        client.forget(node, u64::MAX).await;
        client.forget(node, 1).await;
        client.forget(NodeId::ROOT, u64::MAX).await;
        client.forget(NodeId(0), 1).await;
        assert!(client.getattr(NodeId::ROOT).await.is_ok());
        dir
    });
}

#[test]
fn what_lies_above_the_root_is_the_root() {
    serving(|client, dir| async move {
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let a = client.lookup(NodeId::ROOT, "a").await.unwrap();
        let b = client.lookup(NodeId(a.nodeid), "b").await.unwrap();
        assert_eq!(client.lookup(NodeId(b.nodeid), "..").await.unwrap().nodeid, a.nodeid);
        assert_eq!(client.lookup(NodeId(a.nodeid), "..").await.unwrap().nodeid, 1);
        assert_eq!(client.lookup(NodeId::ROOT, "..").await.unwrap().nodeid, 1);
        assert_eq!(client.lookup(NodeId::ROOT, ".").await.unwrap().nodeid, 1);
        dir
    });
}

#[test]
fn a_directory_moved_out_of_the_tree_has_no_parent() {
    serving(|client, dir| async move {
        let elsewhere = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a")).unwrap();
        let a = client.lookup(NodeId::ROOT, "a").await.unwrap();
        fs::rename(dir.path().join("a"), elsewhere.path().join("a")).unwrap();
        let parent = client.lookup(NodeId(a.nodeid), "..").await;
        assert_eq!(parent.unwrap_err(), Errno::ESTALE);
        dir
    });
}

#[test]
fn a_link_leads_nowhere_on_the_server() {
    serving(|client, dir| async move {
        symlink("/etc", dir.path().join("link")).unwrap();
        let link = client.lookup(NodeId::ROOT, "link").await.unwrap();
        assert_eq!(link.attr.mode & Attr::TYPE_MASK, Attr::SYMLINK);
        let below = client.lookup(NodeId(link.nodeid), "passwd").await;
        assert_eq!(below.unwrap_err(), Errno::ENOTDIR);
        assert_eq!(client.open(NodeId(link.nodeid), 0).await, Err(Errno::ELOOP));
        dir
    });
}

#[test]
fn a_special_file_is_never_opened() {
    serving(|client, dir| async move {
        let fifo = fuse_mknod_in { mode: 0o010_644, ..Default::default() };
        let reply = client.request(ask(8, NodeId::ROOT).arg(&fifo).name("fifo")).await.unwrap();
        let node = NodeId(reply.get::<fuse_entry_out>().nodeid);
        // A blocking open would wait here for a writer.
        assert_eq!(client.open(node, 0).await, Err(Errno::ELOOP));
        let truncated = fuse_setattr_in { valid: FATTR_SIZE, ..Default::default() };
        assert_eq!(client.setattr(node, truncated).await.unwrap_err(), Errno::EINVAL);
        dir
    });
}

#[test]
fn a_file_that_is_there_by_now_is_not_opened_by_create() {
    serving(|client, dir| async move {
        fs::write(dir.path().join("file"), "secret").unwrap();
        // The client's kernel has checked nothing but the directory.
        let created = client.create(NodeId::ROOT, "file", 0, 0o644).await;
        assert_eq!(created.unwrap_err(), Errno::ESTALE);
        let exclusive = client.create(NodeId::ROOT, "file", 0o200, 0o644).await;
        assert_eq!(exclusive.unwrap_err(), Errno::EEXIST);
        dir
    });
}

#[test]
fn a_handle_serves_only_the_file_that_it_was_opened_for() {
    serving(|client, dir| async move {
        fs::write(dir.path().join("a"), "a").unwrap();
        fs::write(dir.path().join("b"), "b").unwrap();
        let a = NodeId(client.lookup(NodeId::ROOT, "a").await.unwrap().nodeid);
        let b = NodeId(client.lookup(NodeId::ROOT, "b").await.unwrap().nodeid);
        let fh = client.open(a, 0).await.unwrap();
        assert_eq!(client.read(b, fh, 0, 10).await, Err(Errno::EBADF));
        assert_eq!(client.release(b, fh).await, Err(Errno::EBADF));
        assert_eq!(client.readdir(a, fh, 0).await.map(|_| ()), Err(Errno::ENOTDIR));
        assert_eq!(client.read(a, Fh(u64::MAX), 0, 10).await, Err(Errno::EBADF));
        dir
    });
}

#[test]
fn every_entry_is_listed_once_whatever_the_offsets() {
    serving(|client, dir| async move {
        for i in 0..2000 {
            fs::write(dir.path().join(format!("file-{i:04}")), "").unwrap();
        }
        let fh = client.opendir(NodeId::ROOT).await.unwrap();
        let names = list(&client, fh).await;
        assert_eq!(names.len(), 2002);
        // From the beginning once more, by the same handle.
        assert_eq!(list(&client, fh).await, names);
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        client.releasedir(NodeId::ROOT, fh).await.unwrap();
        dir
    });
}

async fn list(client: &TestClient, fh: Fh) -> Vec<Vec<u8>> {
    let (mut names, mut offset) = (Vec::new(), 0);
    loop {
        let entries = client.readdir(NodeId::ROOT, fh, offset).await.unwrap();
        let Some(last) = entries.last() else { return names };
        offset = last.next;
        names.extend(entries.into_iter().map(|entry| entry.name));
    }
}

#[test]
fn a_lookup_that_nobody_receives_is_taken_back() {
    serving(|client, dir| async move {
        fs::write(dir.path().join("file"), "").unwrap();
        let asked = client.send(ask(1, NodeId::ROOT).name("file"));
        asked.exchange.abandon();
        asked.exchange.await;
        let asked = client.send(ask(27, NodeId::ROOT).arg(&fuse_open_in::default()));
        asked.exchange.abandon();
        asked.exchange.await;
        dir
    });
}

#[test]
fn a_name_that_is_a_path_is_refused() {
    serving(|client, dir| async move {
        for name in ["a/b", "/etc/passwd", "../x", ""] {
            let found = client.lookup(NodeId::ROOT, name).await;
            assert_eq!(found.unwrap_err(), Errno::EINVAL, "{name:?}");
        }
        assert!(!Path::new("/x").exists());
        dir
    });
}
