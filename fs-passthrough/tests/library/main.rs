//! A directory served to a client in memory, which may do what no kernel does.

mod freeing;

use std::{fs, future::Future, os::unix::fs::symlink, path::Path};

use fsrv::{
    Attr, Errno, Fh, Limits, NodeId, Session,
    abi::*,
    serve,
    testing::{TestClient, ask},
};
use fsrv_passthrough::{Config, InodeFileHandles, Passthrough};
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
    serving_with(Config { inode_file_handles, ..Config::default() }, place, test);
}

fn serving_with<F, T>(config: Config, place: &Path, test: F)
where
    F: Fn(TestClient, tempfile::TempDir) -> T,
    T: Future<Output = tempfile::TempDir>,
{
    let dir = tempfile::tempdir_in(place).unwrap();
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
