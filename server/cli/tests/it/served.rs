//! A directory on the disk, and the server's view of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::mount::Mount;

/// The server built for this test run.
pub(crate) const FSRV: &str = env!("CARGO_BIN_EXE_fsrv");

/// On a disk, unlike /tmp on many machines, and reachable for the users that tests become.
const SCRATCH: &str = "/var/tmp";

/// How the server is started for the tests that run in both corners of the matrix.
pub(crate) const URING_PREFER: [&str; 4] =
    ["--io-engine", "uring", "--inode-file-handles", "prefer"];
pub(crate) const THREADS_NEVER: [&str; 4] =
    ["--io-engine", "threads", "--inode-file-handles", "never"];

/// A served directory. The fields are dropped in this order.
pub(crate) struct Served {
    pub(crate) mount: Mount,
    mountpoint: TempDir,
    dir: TempDir,
}

impl Served {
    pub(crate) fn new(args: &[&str]) -> Self {
        Self::by(Path::new(FSRV), args)
    }

    /// Started by another program, which ends up as the server.
    pub(crate) fn by(program: &Path, args: &[&str]) -> Self {
        let (dir, mountpoint) = (directory(), directory());
        let mount = Mount::serve(program, dir.path(), mountpoint.path(), args);
        Self { mount: mount.expect("a mounted server"), mountpoint, dir }
    }

    /// As a client sees it.
    pub(crate) fn mounted(&self) -> &Path {
        self.mountpoint.path()
    }

    /// As the server sees it.
    pub(crate) fn backing(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn stop(self) {
        self.mount.stop().expect("a clean unmount");
    }
}

/// A new directory, open to every user.
pub(crate) fn directory() -> TempDir {
    let dir = tempfile::Builder::new().prefix("fsrv-").tempdir_in(SCRATCH).expect("a directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("an open directory");
    dir
}

/// A program in `place` that is the server with fewer resources: `limit` is an option of prlimit.
pub(crate) fn limited(place: &Path, limit: &str) -> PathBuf {
    let program = place.join("limited");
    let script = format!("#!/bin/sh\nexec prlimit {limit} {FSRV} \"$@\"\n");
    fs::write(&program, script).expect("a script");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("a program");
    program
}
