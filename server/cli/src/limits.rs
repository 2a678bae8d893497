//! How many descriptors this process may have.

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Below this, a server that holds each file that a client knows by a descriptor runs out with a
/// source tree or two.
const LOW_FOR_FILES: u64 = 100_000;

/// Below this, files that clients have open alone can exhaust it.
const LOW_FOR_OPEN_FILES: u64 = 4096;

/// What descriptors are needed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// Every file that a client knows.
    KnownFiles,
    /// Every file that a client has open.
    OpenFiles,
}

/// Raises the limit to `wanted`, else as far as it goes, and returns it. A low one is a warning.
///
/// # Errors
/// What the kernel answered.
pub(crate) fn raise(wanted: Option<u64>, need: Need) -> Result<u64> {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let limit = wanted.unwrap_or(hard);
    if limit > hard && set(limit, limit).is_ok() {
        return Ok(limit);
    }
    let reached = limit.min(hard);
    set(reached, hard).context("cannot raise the limit of open descriptors")?;
    if reached < limit {
        tracing::warn!("{reached} descriptors at most instead of {limit}: raise the hard limit");
    }
    let low = match need {
        Need::KnownFiles => LOW_FOR_FILES,
        Need::OpenFiles => LOW_FOR_OPEN_FILES,
    };
    if reached < low {
        tracing::warn!(
            "only {reached} descriptors: clients will get ENFILE when more files are in use; raise \
             the hard limit (`ulimit -Hn`, LimitNOFILE=) to {low} or more"
        );
    }
    Ok(reached)
}

fn set(soft: u64, hard: u64) -> rustix::io::Result<()> {
    setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: Some(hard) })
}
