//! The rows of a disk image.

use anyhow::Result;

use crate::fio::{Engine, Job, LARGE, SMALL};
use crate::row::{self, Group, Row, Unit};

/// What is served, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Raw,
    /// Past the host's page cache.
    RawDirect,
    /// qcow2. Reads find it full; each turn of writes has a new one, whose clusters they allocate.
    Thin,
    /// qcow2, made with `preallocation=metadata` and full.
    Full,
}

impl Kind {
    pub(super) const ALL: [Kind; 4] = [Kind::Raw, Kind::RawDirect, Kind::Thin, Kind::Full];

    pub(super) fn format(self) -> &'static str {
        match self {
            Kind::Raw | Kind::RawDirect => "raw",
            Kind::Thin | Kind::Full => "qcow2",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Kind::Raw => "raw",
            Kind::RawDirect => "direct",
            Kind::Thin => "thin",
            Kind::Full => "full",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Kind::Raw => "raw",
            Kind::RawDirect => "raw, host cache off",
            Kind::Thin => "qcow2, thin",
            Kind::Full => "qcow2, preallocated",
        }
    }
}

/// A row, and how it is done.
pub(super) struct Plan {
    pub(super) row: Row,
    pub(super) kind: Kind,
    pub(super) job: Job,
    pub(super) target: Target,
}

/// What fsrv is to reach.
pub(super) struct Target {
    pub(super) times: f64,
    pub(super) of: &'static str,
}

impl Plan {
    pub(super) fn writes(&self) -> bool {
        self.job.rw.ends_with("write")
    }

    /// Clusters are allocated once only.
    pub(super) fn needs_fresh_image(&self) -> bool {
        self.kind == Kind::Thin && self.writes()
    }
}

/// Of large blocks, enough to keep both CPUs busy.
const LARGE_DEPTH: u16 = 4;

/// The rows that the names select, or all; refuses a name that selects none.
pub(super) fn select(names: &[String]) -> Result<Vec<Plan>> {
    row::named(all(), names, |plan| &plan.row)
}

/// Every row, in the order of the table.
fn all() -> Vec<Plan> {
    let mut plans = Vec::new();
    for kind in Kind::ALL {
        if kind == Kind::RawDirect {
            plans.push(small(kind, "read", 32));
            continue;
        }
        for rw in ["read", "write"] {
            plans.extend([1, 32].map(|depth| small(kind, rw, depth)));
        }
        plans.extend(["read", "write"].map(|rw| large(kind, rw)));
    }
    plans
}

fn small(kind: Kind, rw: &'static str, depth: u16) -> Plan {
    let of = if kind == Kind::RawDirect { "native" } else { "qsd" };
    let times = match (kind, rw, depth) {
        (Kind::RawDirect, ..) => 0.95,
        (Kind::Raw, _, 1) => 1.3,
        (Kind::Raw, ..) => 1.5,
        (_, "read", _) => 1.3,
        _ => 1.0,
    };
    let row = Row {
        key: format!("{}-{rw}-d{depth}", kind.key()),
        title: format!("{}, 4 KiB random {rw}, depth {depth}", kind.title()),
        unit: Unit::PerSecond,
        group: Group::Image,
        // A single request waits for two wake-ups and does little else.
        latency: depth == 1,
        peers_do_less: false,
    };
    let rw = if rw == "read" { "randread" } else { "randwrite" };
    let job = Job { rw, engine: Engine::Direct(depth), jobs: 1, block: SMALL };
    Plan { row, kind, job, target: Target { times, of } }
}

fn large(kind: Kind, rw: &'static str) -> Plan {
    let row = Row {
        key: format!("{}-seq{rw}", kind.key()),
        title: format!("{}, 1 MiB sequential {rw}, depth {LARGE_DEPTH}", kind.title()),
        unit: Unit::MibPerSecond,
        group: Group::Image,
        latency: false,
        peers_do_less: false,
    };
    let job = Job { rw, engine: Engine::Direct(LARGE_DEPTH), jobs: 1, block: LARGE };
    Plan { row, kind, job, target: Target { times: 1.2, of: "qsd" } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(key: &str) -> Plan {
        all().into_iter().find(|plan| plan.row.key == key).unwrap()
    }

    #[test]
    fn only_writes_to_a_thin_image_need_a_fresh_one() {
        let keys: Vec<String> =
            all().into_iter().filter(Plan::needs_fresh_image).map(|plan| plan.row.key).collect();
        assert_eq!(keys, ["thin-write-d1", "thin-write-d32", "thin-seqwrite"]);
    }

    #[test]
    fn past_the_hosts_cache_the_yardstick_is_native() {
        assert_eq!(plan("direct-read-d32").target.of, "native");
        assert_eq!(plan("raw-read-d32").target.of, "qsd");
    }
}
