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

/// The limit, and what is wrong with it.
pub(crate) struct Descriptors {
    pub(crate) limit: u64,
    pub(crate) warning: Option<String>,
}

/// Raises the limit to `wanted`, else as far as it goes.
///
/// # Errors
/// What the kernel answered.
pub(crate) fn raise(wanted: Option<u64>, need: Need) -> Result<Descriptors> {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let wanted_limit = wanted.unwrap_or(hard);
    let limit = if wanted_limit > hard && set(wanted_limit, wanted_limit).is_ok() {
        wanted_limit
    } else {
        let limit = wanted_limit.min(hard);
        set(limit, hard).context("cannot raise the limit of open descriptors")?;
        limit
    };
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
    Ok(Descriptors { limit, warning })
}

fn set(soft: u64, hard: u64) -> rustix::io::Result<()> {
    setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: Some(hard) })
}
