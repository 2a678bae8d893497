//! How many descriptors this process may have.

use std::fs;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Below this, a server that holds each file that a client knows by a descriptor runs out with a
/// source tree or two.
const LOW_FOR_FILES: u64 = 100_000;

/// Below this, files that clients have open alone can exhaust it.
const LOW_FOR_OPEN_FILES: u64 = 4096;

/// What a worker takes: its device, its ring, what its runtime waits with.
const OF_WORKER: u64 = 8;

/// What a queue of a virtual machine takes: kick, call and error.
const OF_QUEUE: u64 = 3;

/// What the rest of the process takes, memory of a virtual machine and the program that unmounts included.
const OF_PROCESS: u64 = 32;

/// Fewer than these are of no use to a client.
const OF_CLIENT: u64 = 64;

/// What the server itself takes, whatever clients do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    pub(crate) workers: usize,
    /// Of a virtual machine.
    pub(crate) queues: usize,
}

impl Own {
    fn descriptors(self) -> u64 {
        // What the process was started with, and has opened so far.
        let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let (workers, queues) = (self.workers as u64, self.queues as u64);
        open as u64 + OF_PROCESS + workers * OF_WORKER + queues * OF_QUEUE
    }
}

/// What descriptors are needed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// Every file that a client knows.
    KnownFiles,
    /// Every file that a client has open.
    OpenFiles,
}

/// How many there are for what clients do, and what is wrong with that.
pub(crate) struct Descriptors {
    pub(crate) for_clients: u64,
    pub(crate) warning: Option<String>,
}

/// Raises the limit to `wanted`, else as far as it goes.
///
/// # Errors
/// What the kernel answered, and when there are too few to serve anything: a server that cannot open what it needs to
/// unmount must not mount.
pub(crate) fn raise(wanted: Option<u64>, need: Need, own: Own) -> Result<Descriptors> {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let wanted_limit = wanted.unwrap_or(hard);
    let limit = if wanted_limit > hard && set(wanted_limit, wanted_limit).is_ok() {
        wanted_limit
    } else {
        let limit = wanted_limit.min(hard);
        set(limit, hard).context("cannot raise the limit of open descriptors")?;
        limit
    };
    let own = own.descriptors();
    let least = own + OF_CLIENT;
    if limit < least {
        bail!(
            "only {limit} descriptors, and this takes at least {least}: raise the limit (`ulimit -n`, LimitNOFILE=, \
             --rlimit-nofile)"
        );
    }
    let low = match need {
        Need::KnownFiles => LOW_FOR_FILES,
        Need::OpenFiles => LOW_FOR_OPEN_FILES,
    };
    let warning = (limit < wanted_limit || limit < low).then(|| {
        let enough = wanted.unwrap_or(low);
        format!(
            "only {limit} descriptors: when more files are in use, clients get ENFILE; raise the \
             hard limit (`ulimit -Hn`, LimitNOFILE=) to {enough}"
        )
    });
    Ok(Descriptors { for_clients: limit - own, warning })
}

fn set(soft: u64, hard: u64) -> rustix::io::Result<()> {
    setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: Some(hard) })
}
