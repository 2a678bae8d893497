//! Locks of the host in the way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Stdio},
    time::Instant,
};

use fsrv::Errno;
use rustix::fs::{FlockOperation, fcntl_lock};

use super::*;
use crate::sys::lock::ofd_setlk;

const PATH: &str = "FSRV_TEST_LOCK_PATH";

/// Not a test of its own: holds a write lock on a file until its input ends.
#[test]
fn child() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    println!("\nlocked");
    io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
}

/// A process that has the lock.
struct Holder {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Holder {
    fn start(fixture: &Fixture) -> Self {
        let (_, module) = module_path!().split_once("::").unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::child"), "--nocapture"])
            .env(PATH, fixture.file.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        assert!(output.by_ref().lines().any(|line| line.unwrap() == "locked"));
        Self { child, output }
    }

    fn stop(mut self) {
        drop(self.child.stdin.take());
        io::copy(&mut self.output, &mut io::sink()).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn getlk_names_the_process_that_has_the_lock() {
    let fixture = Fixture::new();
    let holder = Holder::start(&fixture);
    let found = fixture.get(A, lock(READ, 100, 200));
    assert_eq!(found, FileLock { start: 0, end: END, kind: WRITE, pid: holder.child.id() });
    holder.stop();
    assert_eq!(fixture.get(A, lock(READ, 100, 200)).kind, UNLOCK);
    fixture.assert_clean();
}

#[test]
fn a_lock_of_a_process_of_the_host_is_eagain() {
    let fixture = Fixture::new();
    let holder = Holder::start(&fixture);
    assert_eq!(fixture.set(posix(A, READ, 0, 0)), Err(Errno::EAGAIN));
    assert_eq!(fixture.table.count(), 0);
    holder.stop();
    fixture.set(posix(A, READ, 0, 0)).unwrap();
}

#[test]
fn an_open_file_that_has_the_lock_has_no_pid() {
    let fixture = Fixture::new();
    let stranger = fixture.open().unwrap();
    ofd_setlk(stranger.as_fd(), &lock(WRITE, 3, 5)).unwrap();
    let found = fixture.get(A, lock(READ, 0, END));
    assert_eq!(found, FileLock { start: 3, end: 5, kind: WRITE, pid: 0 });
}

#[test]
fn an_upgrade_that_the_host_refuses_leaves_the_lock_as_it_was() {
    let fixture = Fixture::new();
    let stranger = fixture.open().unwrap();
    ofd_setlk(stranger.as_fd(), &lock(READ, 5, 5)).unwrap();
    fixture.set(posix(A, READ, 0, 9)).unwrap();
    assert_eq!(fixture.set(posix(A, WRITE, 0, 9)), Err(Errno::EAGAIN));
    ofd_setlk(stranger.as_fd(), &lock(UNLOCK, 0, END)).unwrap();
    assert_eq!(fixture.get(B, lock(WRITE, 0, END)).kind, READ);
    assert_eq!(fixture.on_host(lock(WRITE, 0, END)), Some(lock(READ, 0, 9)));
    assert_eq!(fixture.table.count(), 1);
}

#[test]
fn two_tables_of_one_directory_keep_each_other_out() {
    let fixture = Fixture::new();
    let other = Arc::new(LockTable::new());
    let (cx, _) = Context::for_testing(1);
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    fixture.set(flock(A, READ)).unwrap();
    for request in [posix(A, READ, 9, 9), flock(A, WRITE)] {
        let request = LockRequest { wait: false, ..request };
        assert_eq!(
            now(other.setlk(&cx, &request, Host::Local, fixture.opener())),
            Err(Errno::EAGAIN)
        );
    }
    fixture.clear();
    for request in [posix(A, READ, 9, 9), flock(A, WRITE)] {
        now(other.setlk(&cx, &request, Host::Local, fixture.opener())).unwrap();
    }
}

#[tokio::test]
async fn a_wait_for_the_host_ends_soon_after_its_unlock() {
    for request in [posix(A, WRITE, 0, 9), flock(A, WRITE)] {
        let fixture = Fixture::new();
        let stranger = fixture.open().unwrap();
        ofd_setlk(stranger.as_fd(), &lock(WRITE, 0, 0)).unwrap();
        rustix::fs::flock(&stranger, FlockOperation::LockShared).unwrap();
        let (cx, _) = Context::for_testing(1);
        let (opened, opener) = (Arc::new(AtomicU64::new(0)), fixture.opener());
        let count = opened.clone();
        let open = move || {
            count.fetch_add(1, Ordering::Relaxed);
            opener()
        };
        let unlock = async {
            tokio::time::sleep(Duration::from_millis(120)).await;
            drop(stranger);
            Instant::now()
        };
        let wait = async {
            soon(fixture.table.setlk(&cx, &request, Host::Local, open)).await.unwrap();
            Instant::now()
        };
        let (unlocked, granted) = tokio::join!(unlock, wait);
        assert!(granted >= unlocked && granted - unlocked < Duration::from_secs(2));
        assert_eq!(opened.load(Ordering::Relaxed), 1);
        assert_eq!(fixture.table.count(), 1);
    }
}

#[tokio::test]
async fn a_wait_for_the_host_is_interrupted() {
    let fixture = Fixture::new();
    let stranger = fixture.open().unwrap();
    ofd_setlk(stranger.as_fd(), &lock(WRITE, 0, END)).unwrap();
    let (cx, interrupt) = Context::for_testing(1);
    let request = posix(A, READ, 0, 9);
    let interruption = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        interrupt();
    };
    let wait = soon(fixture.setlk(&cx, &request));
    let (result, ()) = tokio::join!(wait, interruption);
    assert_eq!(result, Err(Errno::EINTR));
    ofd_setlk(stranger.as_fd(), &lock(UNLOCK, 0, END)).unwrap();
    fixture.assert_clean();
}

#[tokio::test]
async fn one_that_the_host_refuses_does_not_keep_those_behind_it_back() {
    let fixture = Fixture::new();
    let stranger = fixture.open().unwrap();
    ofd_setlk(stranger.as_fd(), &lock(READ, 0, 0)).unwrap();
    fixture.set(posix(A, WRITE, 5, 9)).unwrap();
    let (first, _) = Context::for_testing(1);
    let (second, _) = Context::for_testing(2);
    let requests = [posix(B, WRITE, 0, 9), posix(C, READ, 0, 9)];
    let mut writer = pin!(fixture.setlk(&first, &requests[0]));
    let mut reader = pin!(fixture.setlk(&second, &requests[1]));
    assert!(poll(writer.as_mut()).is_pending());
    assert!(poll(reader.as_mut()).is_pending());
    fixture.flush(A);
    assert!(poll(reader.as_mut()).is_pending(), "the writer came first");
    assert!(poll(writer.as_mut()).is_pending());
    soon(reader).await.unwrap();
    fixture.flush(C);
    ofd_setlk(stranger.as_fd(), &lock(UNLOCK, 0, END)).unwrap();
    soon(writer).await.unwrap();
}
