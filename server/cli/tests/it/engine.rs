//! The engine for file I/O on a machine that refuses io_uring, as many container runtimes do.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output, Stdio};
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::mount::is_mounted;
use crate::served::{FSRV, Served, directory, limited};

/// Runs `test` on a thread for which, and for whose children, io_uring does not exist.
fn without_io_uring(test: fn()) {
    // A filter belongs to a thread, and stays: other tests have their own.
    thread::spawn(move || {
        let calls = BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
        let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(calls, SeccompAction::Allow, refused, arch).unwrap();
        let program: BpfProgram = filter.try_into().unwrap();
        apply_filter(&program).unwrap();
        test();
    })
    .join()
    .unwrap();
}

#[test]
fn io_uring_that_is_required_and_refused_is_one_clear_line() {
    without_io_uring(|| {
        let (dir, mountpoint) = (directory(), directory());
        let output = serve(&["--io-engine", "uring"], dir.path(), mountpoint.path());

        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("--io-engine uring requires"), "{said}");
        assert!(said.contains("not permitted"), "{said}");
        assert!(!is_mounted(mountpoint.path()).unwrap());
    });
}

#[test]
fn threads_are_chosen_where_io_uring_is_refused_and_one_line_says_so() {
    without_io_uring(|| {
        let served = Served::new(&["--io-engine", "auto"]);
        fs::write(served.mounted().join("file"), "content").unwrap();

        let log = served.mount.log().unwrap();
        let reasons: Vec<&str> = log.lines().filter(|line| line.contains("io_uring")).collect();
        let [reason] = reasons[..] else { panic!("not one line: {log}") };
        assert!(reason.contains("file I/O by threads: no io_uring here"), "{reason}");
        assert!(log.lines().any(|line| line.contains("workers, threads")), "{log}");
        assert_eq!(fs::read(served.backing().join("file")).unwrap(), b"content");
        served.stop();
    });
}

#[test]
fn a_user_who_may_lock_no_memory_is_served_by_threads() {
    let (dir, mountpoint) = (directory(), directory());
    let limited = limited(dir.path(), "--memlock=0:0");
    let served = Served::by(&limited, &["--io-engine", "auto"]);
    fs::write(served.mounted().join("file"), "content").unwrap();
    let log = served.mount.log().unwrap();
    assert!(log.contains("file I/O by threads: no io_uring here"), "{log}");
    served.stop();

    let mut serve = Command::new(&limited);
    serve.args(["serve", "--io-engine", "uring", "--fuse"]).arg(mountpoint.path());
    let output = serve.arg("--dir").arg(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.lines().count() == 1 && said.contains("ulimit -l"), "{said}");
    assert!(!is_mounted(mountpoint.path()).unwrap());
}

fn serve(args: &[&str], dir: &std::path::Path, mountpoint: &std::path::Path) -> Output {
    // A server that starts all the same must not keep the test waiting.
    Command::new("timeout")
        .args(["--kill-after=2", "10", FSRV, "serve", "--fuse"])
        .arg(mountpoint)
        .arg("--dir")
        .arg(dir)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("timeout runs")
}
