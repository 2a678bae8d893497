//! Large files that nobody has any more are freed beside everything else.

use std::{fs, future::Future, path::Path, time::Duration};

use fsrv::{Errno, NodeId, abi::*, testing::ask};
use fsrv_passthrough::{Config, InodeFileHandles};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{serving_at, serving_with};

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
fn no_more_than_a_few_removed_files_wait_to_be_freed() {
    // Of so many descriptors two are for them.
    const DESCRIPTORS: u64 = 64;
    const WAITING: usize = 2;
    for inode_file_handles in [InodeFileHandles::Never, InodeFileHandles::Prefer] {
        let config =
            Config { inode_file_handles, max_descriptors: DESCRIPTORS, ..Config::default() };
        serving_with(config, Path::new(MEMORY), |client, dir| async move {
            for number in 0..8 {
                fs::write(dir.path().join(number.to_string()), vec![b'x'; LITTLE]).unwrap();
            }
            for number in 0..8 {
                client.unlink(NodeId::ROOT, &number.to_string()).await.unwrap();
                let waiting = removed_and_open(dir.path());
                assert!(waiting <= WAITING, "{waiting} files wait");
            }
            dir
        });
    }
}

/// How many files of `dir` are open here and have no name.
fn removed_and_open(dir: &Path) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let leads = |entry: std::io::Result<fs::DirEntry>| fs::read_link(entry.unwrap().path()).ok();
    let is_removed = |target: &std::path::PathBuf| {
        target.starts_with(dir) && target.to_string_lossy().ends_with(" (deleted)")
    };
    open.filter_map(leads).filter(is_removed).count()
}
