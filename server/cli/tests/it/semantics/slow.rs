//! Something slow below the served directory holds nobody up.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fsrv::op::{GetAttr, Lookup, Opcode, Open, Read, Unlink};
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

/// Every name but one is a file, and nothing may be cached.
struct Slow {
    /// The operations that take long.
    sleeps: &'static [Opcode],
    /// The node of each name that was asked for.
    nodes: Mutex<HashMap<CString, NodeId>>,
}

impl Slow {
    const EVERYWHERE: &[Opcode] = &[Opcode::Lookup, Opcode::Read, Opcode::Unlink];

    fn new(sleeps: &'static [Opcode]) -> Self {
        Self { sleeps, nodes: Mutex::default() }
    }

    async fn sleep(&self, cx: &Context) {
        if self.sleeps.contains(&cx.opcode) {
            sleep(PAUSE).await;
        }
    }

    fn node(&self, name: &CStr) -> NodeId {
        let mut nodes = self.nodes.lock().unwrap();
        let next = NodeId(nodes.len() as u64 + 2);
        *nodes.entry(name.to_owned()).or_insert(next)
    }

    fn attr(nodeid: NodeId) -> Attr {
        let mode = if nodeid == NodeId::ROOT { 0o040_777 } else { 0o100_666 };
        Attr { ino: nodeid.0, mode, nlink: 1, size: 4096, blksize: 4096, ..Attr::default() }
    }
}

impl FileSystem for Slow {
    async fn lookup(&self, cx: &Context, op: Lookup<'_>) -> Result<Entry> {
        self.sleep(cx).await;
        let LookupName::Name(name) = op.name else { return Err(Errno::ESTALE) };
        if name.as_c_str() == c"missing" {
            return Err(Errno::ENOENT);
        }
        let nodeid = self.node(name.as_c_str());
        let (entry_ttl, attr_ttl) = (Duration::ZERO, Duration::ZERO);
        Ok(Entry { nodeid, generation: 0, attr: Self::attr(nodeid), entry_ttl, attr_ttl })
    }

    async fn getattr(&self, _: &Context, op: GetAttr) -> Result<Attributes> {
        Ok(Attributes { attr: Self::attr(op.nodeid), ttl: Duration::ZERO })
    }

    async fn open(&self, _: &Context, _: Open) -> Result<Opened> {
        Ok(Opened { fh: Fh(0), flags: abi::FOPEN_DIRECT_IO })
    }

    async fn read(&self, cx: &Context, op: Read) -> Result<Filled> {
        self.sleep(cx).await;
        let mut out = op.out;
        let bytes = vec![b'x'; out.remaining().min(4096)];
        out.append(&bytes).map_err(|_| Errno::EIO)?;
        Ok(out.finish())
    }

    async fn unlink(&self, cx: &Context, _: Unlink<'_>) -> Result<()> {
        self.sleep(cx).await;
        Ok(())
    }
}

#[test]
fn a_hot_loop_goes_on_beside_cold_reads_and_lookups() {
    let limit = |_: &Path| 2 * PAUSE;
    race(Slow::EVERYWHERE, &["cold lookup", "lookup of nothing", "cold read"], limit);
}

#[test]
fn a_hot_loop_goes_on_beside_slow_unlinks() {
    race(&[Opcode::Unlink], &["unlink"], |_| 2 * PAUSE);
}

#[test]
fn an_unlink_whose_lookups_are_slow_too_costs_one_lookup_more_than_below() {
    // The client's kernel looks the name up in the mount, and the server's kernel looks whether it is still that.
    let limit = |slow: &Path| {
        let start = Instant::now();
        fs::remove_file(slow.join("native")).unwrap();
        start.elapsed() + 2 * PAUSE
    };
    race(Slow::EVERYWHERE, &["unlink"], limit);
}

/// How often each slow operation is done.
const ROUNDS: u32 = 8;

/// Does the operations called `names` beside a hot loop, with both engines. `limit` is how long one may take, from
/// what the filesystem below takes without us.
fn race(sleeps: &'static [Opcode], names: &[&str], limit: fn(&Path) -> Duration) {
    for engine in [Engine::Uring, Engine::Threads] {
        let (dir, mountpoint) = (directory(), directory());
        let native = dir.path().join("slow");
        fs::create_dir(&native).unwrap();
        let slow = Embedded::serve(Slow::new(sleeps), &native, engine, 1);
        // One worker: whatever it waits for, the hot loop waits for as well.
        let config = Config { cache: CachePolicy::Never, ..Config::default() };
        let served = Embedded::directory(dir.path(), mountpoint.path(), config, engine, 1);
        let limit = limit(&native);

        let times = beside_a_hot_loop(mountpoint.path(), names, limit);

        let (above, below) = (served.session.stats(), slow.session.stats());
        assert!(above.requests_for("lookup") >= HOT, "{above:?}");
        for (name, _) in &times {
            let operation = name.split(' ').find(|word| *word != "cold").unwrap_or_default();
            assert!(below.requests_for(operation) >= u64::from(ROUNDS), "{below:?}");
        }
        println!("{engine:?}: {times:?} of at most {limit:?}, {above:?}");
        drop(served);
    }
}

/// Runs both, and returns how long the slow operations took when nothing else was in the way.
fn beside_a_hot_loop(mounted: &Path, names: &[&str], limit: Duration) -> Vec<(String, Duration)> {
    let hot = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while hot.load(Ordering::Relaxed) < HOT || !is_over.load(Ordering::Relaxed) {
                assert!(fs::symlink_metadata(mounted.join("nothing")).is_err());
                hot.fetch_add(1, Ordering::Relaxed);
            }
        });
        // It ends also when something here fails.
        let _over = OnDrop(|| is_over.store(true, Ordering::Relaxed));
        let operations = operations(mounted.join("slow"));
        let wanted = operations.into_iter().filter(|(name, _)| names.contains(name));
        wanted
            .map(|(name, operation)| {
                let rounds = (0..ROUNDS).map(|round| {
                    let (start, before) = (Instant::now(), hot.load(Ordering::Relaxed));
                    operation(round);
                    (start.elapsed(), hot.load(Ordering::Relaxed) - before)
                });
                let (times, beside): (Vec<_>, Vec<_>) = rounds.unzip();
                // A hot loop that is held up does one request, or two.
                let beside = beside.into_iter().max().unwrap_or_default();
                assert!(beside >= 50, "{beside} requests beside a {name}");
                // A loaded machine may delay any of them, but not each.
                let fastest = times.into_iter().min().unwrap_or_default();
                assert!(fastest < limit, "a {name} took {fastest:?}");
                (name.to_owned(), fastest)
            })
            .collect()
    })
}

type Operation = Box<dyn Fn(u32)>;

/// What is done in `slow`. The number differs from round to round.
fn operations(slow: PathBuf) -> Vec<(&'static str, Operation)> {
    let file = File::open(slow.join("file")).unwrap();
    let (cold, nothing) = (slow.clone(), slow.join("missing"));
    vec![
        (
            "cold lookup",
            Box::new(move |number| {
                fs::symlink_metadata(cold.join(format!("cold{number}"))).unwrap();
            }),
        ),
        ("lookup of nothing", Box::new(move |_| assert!(fs::symlink_metadata(&nothing).is_err()))),
        (
            "cold read",
            Box::new(move |_| {
                let mut bytes = [0; 4096];
                file.read_exact_at(&mut bytes, 0).unwrap();
                assert_eq!(bytes, [b'x'; 4096]);
            }),
        ),
        (
            "unlink",
            Box::new(move |number| fs::remove_file(slow.join(format!("file{number}"))).unwrap()),
        ),
    ]
}

#[test]
fn a_file_of_a_mount_that_forgets_its_handles_stays_known() {
    let dir = directory();
    fs::create_dir(dir.path().join("slow")).unwrap();
    let slow =
        Embedded::serve(Slow::new(Slow::EVERYWHERE), &dir.path().join("slow"), Engine::Threads, 1);
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
        Embedded::serve(
            Slow::new(Slow::EVERYWHERE),
            &served.backing().join(name),
            Engine::Threads,
            1,
        )
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
