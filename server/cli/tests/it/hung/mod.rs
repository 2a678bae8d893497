//! A filesystem below the served directory that hangs stops nothing else, and nothing is left of those who waited for it.

mod callers;
mod ends;
mod granted;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::mount::is_mounted;

/// How long something may take that waits for nobody, on a machine that has much else to do.
const SOON: Duration = Duration::from_secs(2);

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A filesystem of another process, which can be stopped. It is gone when this drops.
pub(crate) struct Slow {
    server: Child,
    point: PathBuf,
}

impl Slow {
    /// Shows `source` at `point`, which is made.
    pub(crate) fn at(source: &Path, point: &Path) -> Self {
        fs::create_dir_all(point).expect("a mount point");
        let mut server = Command::new("bindfs")
            .arg("-f")
            .args([source, point])
            .stdin(Stdio::null())
            .spawn()
            .expect("bindfs, which `cargo xtask setup` installs");
        until("bindfs has mounted", || {
            assert!(server.try_wait().expect("a child").is_none(), "bindfs ended");
            is_mounted(point).expect("a table of mounts")
        });
        Self { server, point: point.to_owned() }
    }

    /// It answers nothing from now on.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        until("bindfs has stopped", || self.states().all(|state| state == "T"));
    }

    /// It answers everything again.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).expect("it is there");
    }

    fn states(&self) -> impl Iterator<Item = String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.server.id())).into_iter().flatten();
        tasks.filter_map(|task| {
            let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
            Some(stat.rsplit(')').next()?.split_whitespace().next()?.to_owned())
        })
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // Whatever waits for it goes on, and with that ends.
        let _ = kill_process(Pid::from_child(&self.server), Signal::CONT);
        let _ = unmount(&self.point, UnmountFlags::DETACH);
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Waits for something.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not after {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The result of `act`, which must have it soon.
fn soon<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    within(SOON, what, act)
}

/// The result of `act`, which must have it within `limit`; otherwise its thread is left behind.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    act: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, result) = channel();
    thread::spawn(move || {
        // Whoever waited may have given up.
        let _ = done.send(act());
    });
    result.recv_timeout(limit).unwrap_or_else(|_| panic!("{what} takes longer than {limit:?}"))
}
