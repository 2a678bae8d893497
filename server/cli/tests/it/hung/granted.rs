//! What is granted to those who no longer wait.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use fsrv::{SessionStats, Stats};
use fsrv_passthrough::{Config, InodeFileHandles};
use fsrv_transport::io::Engine;

use super::{Slow, until, within};
use crate::semantics::embedded::Embedded;
use crate::served::directory;

/// Whoever is killed while it hangs gets what it asked for later, and it is taken back.
#[test]
fn what_is_granted_to_who_was_killed_is_taken_back() {
    for engine in [Engine::Uring, Engine::Threads] {
        let (dir, source, mountpoint) = (directory(), directory(), directory());
        // Each in a directory of its own: in one they would wait for each other in the client.
        for dir in ["cat", "ls", "mkdir", "touch", "flock"] {
            fs::create_dir(source.path().join(dir)).unwrap();
            fs::write(source.path().join(dir).join("there"), dir).unwrap();
        }
        let slow = Slow::at(source.path(), &dir.path().join("hung"));
        let config = Config { inode_file_handles: InodeFileHandles::Never, ..Config::default() };
        let served = Embedded::directory(dir.path(), mountpoint.path(), config, engine, 2);
        let at = |name: &str| mountpoint.path().join("hung").join(name);
        for dir in ["cat", "ls", "mkdir", "touch", "flock"] {
            fs::metadata(at(dir)).unwrap();
        }
        slow.stop();
        let started = [
            ("cat", at("cat/there")),
            ("ls", at("ls")),
            ("mkdir", at("mkdir/made")),
            ("touch", at("touch/made")),
            ("flock", at("flock/there")),
        ]
        .map(|(program, path)| {
            let mut command = Command::new(program);
            command.arg(path);
            if program == "flock" {
                command.arg("true");
            }
            command.stdout(Stdio::null()).spawn().unwrap()
        });
        let stats = || served.session.stats();
        until("all of them wait", || stats().in_flight == 5);
        within(Duration::from_secs(5), "the end of those who were killed", move || {
            for mut caller in started {
                caller.kill().unwrap();
                caller.wait().unwrap();
            }
        });
        until("no request is left", || stats().in_flight == 0);

        slow.go_on();
        // What they asked for may still happen.
        std::thread::sleep(Duration::from_millis(100));
        let nothing = Stats { inodes: 1, lookups: 0, handles: 0, locks: 0 };
        let is_idle = |stats: SessionStats| stats.held == nothing && stats.in_flight == 0;
        until("nothing is held", || {
            fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            is_idle(stats())
        });
        drop((served, slow));
    }
}
