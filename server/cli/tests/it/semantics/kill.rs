//! What a server keeps of clients that are gone: nothing.

use std::fs::{self, File};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fsrv::{SessionStats, Stats};
use fsrv_passthrough::{Config, InodeFileHandles};
use fsrv_transport::io::Engine;

use super::CORNERS;
use super::client::{Client, Part};
use super::embedded::Embedded;
use super::limits::descriptors;
use crate::served::{Served, directory};

const FILES: usize = 1000;
const OPENS: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// `FSRV_LONG=1` asks for what the issue asks for.
fn lookups() -> usize {
    if std::env::var_os("FSRV_LONG").is_some() { 1_000_000 } else { 30_000 }
}

#[test]
fn nothing_is_held_for_clients_that_are_gone() {
    for (engine, handles) in
        [(Engine::Uring, InodeFileHandles::Prefer), (Engine::Threads, InodeFileHandles::Never)]
    {
        let (dir, mountpoint) = (directory(), directory());
        let config = Config { inode_file_handles: handles, ..Config::default() };
        let served = Embedded::directory(dir.path(), mountpoint.path(), config, engine, 2);

        use_and_die(dir.path(), mountpoint.path());

        let nothing = Stats { inodes: 1, lookups: 0, handles: 0, locks: 0 };
        let session = &served.session;
        let is_idle = |stats: SessionStats| stats.held == nothing && stats.in_flight == 0;
        forget_until(|| is_idle(session.stats()), || format!("{:?}", session.stats()));
        let stats = session.stats();
        assert!(stats.requests_for("lookup") >= lookups() as u64, "{stats:?}");
        assert!(stats.requests_for("open") >= OPENS as u64, "{stats:?}");
        assert_eq!(stats.malformed, 0);
    }
}

#[test]
fn no_descriptor_is_left_of_clients_that_are_gone() {
    for corner in CORNERS {
        let served = Served::new(corner);
        fs::read_dir(served.mounted()).unwrap().count();
        let before = settled(|| descriptors(&served));

        use_and_die(served.backing(), served.mounted());

        let now = || descriptors(&served);
        forget_until(|| now() <= before, || format!("{} instead of {before} descriptors", now()));
        served.stop();
    }
}

/// A number when it changes no more: the first answer comes from one worker, and others may still begin.
fn settled(number: impl Fn() -> usize) -> usize {
    const SAME: usize = 4;
    let mut last = vec![number()];
    while last.len() < SAME {
        sleep(Duration::from_millis(100));
        let now = number();
        last.retain(|&before| before == now);
        last.push(now);
    }
    last[0]
}

/// Clients killed in the middle of everything, many opens and closes, many lookups.
fn use_and_die(dir: &Path, mounted: &Path) {
    let clients = [0; 3].map(|_| Client::start(Part::Churn, mounted));
    let waiters = clients.each_ref().map(|client| {
        let file = mounted.join(client.pid().as_raw_nonzero().to_string()).join("lock");
        let deadline = Instant::now() + PATIENCE;
        // The client makes its directory first.
        while File::create(&file).is_err() {
            assert!(Instant::now() < deadline, "a client does not begin");
            sleep(Duration::from_millis(5));
        }
        (Client::start(Part::HoldLock, &file), Client::start(Part::WaitForLock, &file))
    });
    sleep(Duration::from_millis(300));
    for (client, (holder, waiter)) in clients.into_iter().zip(waiters) {
        client.kill();
        holder.kill();
        waiter.kill();
    }

    // Numbers alone are the clients' directories.
    let name = |number| format!("file-{number}");
    (0..FILES).for_each(|number| fs::write(dir.join(name(number)), "content").unwrap());
    for number in 0..OPENS {
        drop(File::open(mounted.join(name(number % FILES))).unwrap());
    }
    // Names that do not exist are asked for each time.
    for number in 0..lookups() {
        assert!(fs::symlink_metadata(mounted.join(format!("no-{number}"))).is_err());
    }
}

/// Makes the kernel forget what nobody uses, as often as it takes.
fn forget_until(done: impl Fn() -> bool, state: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        fs::write("/proc/sys/vm/drop_caches", "2").expect("these tests run as root");
        if done() {
            return;
        }
        assert!(Instant::now() < deadline, "{}", state());
        sleep(Duration::from_millis(20));
    }
}
