//! Something slow below the served directory holds nobody up.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fsrv::op::{GetAttr, Lookup, Open, Read, Unlink};
use fsrv::{
    Attr, Attributes, Context, Entry, Errno, Fh, FileSystem, LookupName, NodeId, Opened, Result,
    abi,
};
use fsrv_passthrough::{CachePolicy, Config};
use fsrv_transport::io::Engine;
use fsrv_transport::mem::Filled;
use rustix::fs::{Mode, OFlags, open};
use tokio::time::sleep;

use super::embedded::Embedded;
use crate::served::{Served, directory};

/// How long the slow filesystem takes for everything that matters.
const PAUSE: Duration = Duration::from_millis(50);

/// Requests of the hot loop.
const HOT: u64 = 100_000;

/// Every name but one is a file, each with a node of its own, and nothing may be cached.
#[derive(Default)]
struct Slow {
    nodes: AtomicU64,
}

impl Slow {
    fn attr(nodeid: NodeId) -> Attr {
        let mode = if nodeid == NodeId::ROOT { 0o040_777 } else { 0o100_666 };
        Attr { ino: nodeid.0, mode, nlink: 1, size: 4096, blksize: 4096, ..Attr::default() }
    }
}

impl FileSystem for Slow {
    async fn lookup(&self, _: &Context, op: Lookup<'_>) -> Result<Entry> {
        sleep(PAUSE).await;
        let LookupName::Name(name) = op.name else { return Err(Errno::ESTALE) };
        if name.as_c_str() == c"missing" {
            return Err(Errno::ENOENT);
        }
        let nodeid = NodeId(self.nodes.fetch_add(1, Ordering::Relaxed) + 2);
        let (entry_ttl, attr_ttl) = (Duration::ZERO, Duration::ZERO);
        Ok(Entry { nodeid, generation: 0, attr: Self::attr(nodeid), entry_ttl, attr_ttl })
    }

    async fn getattr(&self, _: &Context, op: GetAttr) -> Result<Attributes> {
        Ok(Attributes { attr: Self::attr(op.nodeid), ttl: Duration::ZERO })
    }

    async fn open(&self, _: &Context, _: Open) -> Result<Opened> {
        Ok(Opened { fh: Fh(0), flags: abi::FOPEN_DIRECT_IO })
    }

    async fn read(&self, _: &Context, op: Read) -> Result<Filled> {
        sleep(PAUSE).await;
        let mut out = op.out;
        let bytes = vec![b'x'; out.remaining().min(4096)];
        out.append(&bytes).map_err(|_| Errno::EIO)?;
        Ok(out.finish())
    }

    async fn unlink(&self, _: &Context, _: Unlink<'_>) -> Result<()> {
        sleep(PAUSE).await;
        Ok(())
    }
}

#[test]
fn a_hot_loop_goes_on_beside_cold_reads_lookups_and_slow_unlinks() {
    for engine in [Engine::Uring, Engine::Threads] {
        let (dir, mountpoint) = (directory(), directory());
        fs::create_dir(dir.path().join("slow")).unwrap();
        let slow = Embedded::serve(Slow::default(), &dir.path().join("slow"), engine, 1);
        // One worker: whatever it waits for, the hot loop waits for as well.
        let config = Config { cache: CachePolicy::Never, ..Config::default() };
        let served = Embedded::directory(dir.path(), mountpoint.path(), config, engine, 1);

        let times = race(dir.path(), mountpoint.path(), engine);

        let (above, below) = (served.session.stats(), slow.session.stats());
        assert!(above.requests_for("lookup") >= HOT, "{above:?}");
        for operation in ["lookup", "read", "unlink"] {
            assert!(below.requests_for(operation) >= ROUNDS as u64, "{below:?}");
        }
        println!("{engine:?}: slow operations took {times:?}, {above:?}");
        drop(served);
    }
}

/// How often each slow operation is done.
const ROUNDS: usize = 8;

/// Runs both, and returns how long the slow operations took when nothing else was in the way.
fn race(native: &Path, mounted: &Path, engine: Engine) -> [Duration; 4] {
    let hot = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    let slow = mounted.join("slow");
    let start = Instant::now();
    fs::remove_file(native.join("slow/file")).unwrap();
    let unlink = start.elapsed();
    thread::scope(|scope| {
        scope.spawn(|| {
            while hot.load(Ordering::Relaxed) < HOT || !is_over.load(Ordering::Relaxed) {
                assert!(fs::symlink_metadata(mounted.join("nothing")).is_err());
                hot.fetch_add(1, Ordering::Relaxed);
            }
        });
        // It ends also when something here fails.
        let _over = OnDrop(|| is_over.store(true, Ordering::Relaxed));
        let file = File::open(slow.join("file")).unwrap();
        let number = std::cell::Cell::new(0);
        let operations: [(&str, &dyn Fn()); 4] = [
            ("a cold lookup", &|| {
                number.set(number.get() + 1);
                fs::symlink_metadata(slow.join(number.get().to_string())).unwrap();
            }),
            ("a lookup of nothing", &|| {
                assert!(fs::symlink_metadata(slow.join("missing")).is_err());
            }),
            ("a cold read", &|| {
                let mut bytes = [0; 4096];
                std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
                assert_eq!(bytes, [b'x'; 4096]);
            }),
            ("a slow unlink", &|| {
                number.set(number.get() + 1);
                fs::remove_file(slow.join(number.get().to_string())).unwrap();
            }),
        ];
        operations.map(|(name, operation)| {
            let rounds = (0..ROUNDS).map(|_| {
                let (start, before) = (Instant::now(), hot.load(Ordering::Relaxed));
                operation();
                (start.elapsed(), hot.load(Ordering::Relaxed) - before)
            });
            let rounds: Vec<_> = rounds.collect();
            let (times, beside): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
            // A hot loop that is held up does one request, or two.
            let beside = beside.into_iter().max().unwrap_or_default();
            assert!(beside >= 50, "{beside} requests beside {name} with {engine:?}");
            // A loaded machine may delay any of them, but not each.
            let fastest = times.into_iter().min().unwrap_or_default();
            // An unlink asks for the name as well, above and below.
            let limit = if name == "a slow unlink" { PAUSE + 2 * unlink } else { 2 * PAUSE };
            assert!(fastest < limit, "{name} took {fastest:?} with {engine:?}");
            fastest
        })
    })
}

#[test]
fn a_file_of_a_mount_that_forgets_its_handles_stays_known() {
    let dir = directory();
    fs::create_dir(dir.path().join("slow")).unwrap();
    let slow = Embedded::serve(Slow::default(), &dir.path().join("slow"), Engine::Threads, 1);
    let mountpoint = directory();
    let served = Embedded::directory(
        dir.path(),
        mountpoint.path(),
        Config { cache: CachePolicy::Never, ..Config::default() },
        Engine::Uring,
        1,
    );
    let path = mountpoint.path().join("slow/file");
    let file = open(&path, OFlags::PATH, Mode::empty()).unwrap();
    let before = rustix::fs::fstat(&file).map(|stat| stat.st_ino);

    for _ in 0..3 {
        fs::write("/proc/sys/vm/drop_caches", "2").expect("these tests run as root");
    }

    assert_eq!(rustix::fs::fstat(&file).map(|stat| stat.st_ino), before);
    drop((file, served, slow));
}

#[test]
fn a_mount_below_has_inodes_of_its_own() {
    let served = Served::new(&[]);
    for name in ["a", "b"] {
        fs::create_dir(served.backing().join(name)).unwrap();
    }
    let slow = ["a", "b"].map(|name| {
        Embedded::serve(Slow::default(), &served.backing().join(name), Engine::Threads, 1)
    });
    // Both have a file with the inode number 2.
    let inos = ["a/file", "b/file"].map(|name| {
        let path = served.mounted().join(name);
        let file = File::open(path).unwrap();
        (file.metadata().unwrap().ino(), file)
    });
    assert_eq!(inos[0].0, inos[1].0);
    let inodes = inos.each_ref().map(|(_, file)| fs::read(proc_path(file)).unwrap().len());
    assert_eq!(inodes, [4096, 4096]);
    drop((inos, slow));
    served.stop();
}

fn proc_path(file: &File) -> String {
    format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file))
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
