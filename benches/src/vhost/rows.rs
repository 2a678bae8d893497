//! The rows of a device on a queue.

use anyhow::Result;

use crate::row::{self, Group, Row, Unit};

/// What one row does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Read,
    Write,
    Getattr,
    Lookup,
    Negative,
    Direct,
    OpenRelease,
    CreateUnlink,
    Readdirplus,
    SequentialRead,
    SequentialWrite,
    Tail,
}

/// A row, and how it is done.
pub(super) struct Plan {
    pub(super) row: Row,
    pub(super) work: Work,
    pub(super) depth: u16,
    /// More than one is only for subjects that have them.
    pub(super) queues: usize,
}

impl Plan {
    /// On which filesystem the served directory lies.
    pub(super) fn on_tmpfs(&self) -> bool {
        self.work == Work::CreateUnlink
    }
}

const SMALL: [(Work, &str, &str); 5] = [
    (Work::Read, "read", "4 KiB read, warm"),
    (Work::Getattr, "getattr", "getattr"),
    (Work::Lookup, "lookup", "lookup"),
    (Work::Negative, "negative", "negative lookup"),
    (Work::Write, "write", "4 KiB write"),
];

/// The rows that the names select, or all; refuses a name that selects none.
pub(super) fn select(names: &[String]) -> Result<Vec<Plan>> {
    row::named(all(), names, |plan| &plan.row)
}

/// Every row, in the order of the table.
fn all() -> Vec<Plan> {
    let mut plans = Vec::new();
    for (work, key, title) in SMALL {
        for depth in [1, 16, 128] {
            let (key, title) = (format!("{key}-d{depth}"), format!("{title}, depth {depth}"));
            plans.push(plan(work, &key, &title, Unit::PerSecond, depth));
        }
    }
    for (work, key, title, unit, depth) in [
        (Work::Direct, "direct-d32", "4 KiB O_DIRECT read, depth 32", Unit::PerSecond, 32),
        (Work::OpenRelease, "open-d16", "open and release, depth 16", Unit::PerSecond, 16),
        (
            Work::CreateUnlink,
            "create-d16",
            "create and unlink, tmpfs, depth 16",
            Unit::PerSecond,
            16,
        ),
        (
            Work::Readdirplus,
            "readdirplus-d16",
            "readdirplus of 10,000, entries, depth 16",
            Unit::PerSecond,
            16,
        ),
        (Work::SequentialRead, "seqread", "1 MiB sequential read, warm", Unit::MibPerSecond, 4),
        (Work::SequentialWrite, "seqwrite", "1 MiB sequential write", Unit::MibPerSecond, 4),
        (Work::Tail, "tail", "4 KiB read, warm, p99 beside O_DIRECT", Unit::Microseconds, 17),
    ] {
        plans.push(plan(work, key, title, unit, depth));
    }
    for (queues, title) in [(1, "one queue"), (2, "two queues")] {
        let (key, title) = (format!("queues-{queues}"), format!("4 KiB read, depth 16, {title}"));
        let plan = plan(Work::Read, &key, &title, Unit::PerSecond, 16);
        plans.push(Plan { queues, ..plan });
    }
    plans
}

fn plan(work: Work, key: &str, title: &str, unit: Unit, depth: u16) -> Plan {
    let row = Row {
        key: key.into(),
        title: title.into(),
        unit,
        group: Group::Queue,
        // A single request waits for two wake-ups and does nothing else.
        latency: depth == 1,
        peers_do_less: false,
    };
    Plan { row, work, depth, queues: 1 }
}
