//! The rows of the table.

use anyhow::{Error, Result, anyhow};

/// What is measured: one line of the table.
pub(crate) struct Row {
    /// Its name on the command line and between processes.
    pub(crate) key: String,
    pub(crate) title: String,
    pub(crate) unit: Unit,
    pub(crate) group: Group,
    /// Decided by wake-ups, so measured with and without halt polling.
    pub(crate) latency: bool,
    /// The peers here do not do the same work, so fsrv is compared with the native directory only.
    pub(crate) peers_do_less: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    PerSecond,
    MibPerSecond,
    Microseconds,
    Mib,
    Bytes,
    /// System calls an operation.
    Calls,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Data,
    SmallFiles(Backing),
    /// The slowest lookups of a hundred, alone and beside others.
    Tail,
    Memory,
    /// Requests on a queue of a virtio-fs device.
    Queue,
    /// A disk image as one file.
    Image,
    /// What an operation costs a server.
    Cost,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    Tmpfs,
    Ext4,
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Unit::PerSecond => "/s",
            Unit::MibPerSecond => "MiB/s",
            Unit::Microseconds => "us",
            Unit::Mib => "MiB",
            Unit::Bytes => "bytes",
            Unit::Calls => "calls",
        }
    }

    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Unit::PerSecond | Unit::MibPerSecond)
    }
}

impl Group {
    fn name(self) -> &'static str {
        match self {
            Group::Data => "data",
            Group::SmallFiles(_) => "small",
            Group::Tail => "tail",
            Group::Memory => "memory",
            Group::Queue => "queue",
            Group::Image => "image",
            Group::Cost => "cost",
        }
    }
}

impl Backing {
    pub(crate) const ALL: [Backing; 2] = [Backing::Tmpfs, Backing::Ext4];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Backing::Tmpfs => "tmpfs",
            Backing::Ext4 => "ext4",
        }
    }
}

/// The steps of the small-file load, in the order in which they run: each works on the files of the ones before.
const SMALL: [(&str, &str); 9] = [
    ("create", "create"),
    ("write", "open, write 4 KiB, close"),
    ("read", "open, read 4 KiB, close"),
    ("negative", "negative lookup"),
    ("chmod", "chmod"),
    ("readdir", "readdir, entries"),
    ("scan", "readdir after a change, entries"),
    ("rename", "rename"),
    ("unlink", "unlink"),
];

/// Every row, in the order of the table.
pub(crate) fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |key: &str, title: &str, unit, group, latency| {
        // fbrs and bindfs drop the flag: the host's page cache answers them, not the disk.
        let peers_do_less = key == "direct";
        rows.push(Row {
            key: key.into(),
            title: title.into(),
            unit,
            group,
            latency,
            peers_do_less,
        });
    };
    add("randread", "4 KiB random read, warm", Unit::PerSecond, Group::Data, false);
    add("randread-4jobs", "4 KiB random read, warm, 4 jobs", Unit::PerSecond, Group::Data, false);
    add("mmapread", "4 KiB random read, warm, mmap", Unit::PerSecond, Group::Data, false);
    add("direct", "4 KiB random read, O_DIRECT, depth 16", Unit::PerSecond, Group::Data, true);
    add("seqread", "1 MiB sequential read, warm", Unit::MibPerSecond, Group::Data, false);
    add("seqwrite", "1 MiB sequential write", Unit::MibPerSecond, Group::Data, false);
    add("randwrite", "4 KiB random write", Unit::PerSecond, Group::Data, true);
    for backing in Backing::ALL {
        let on = backing.name();
        for (step, title) in SMALL {
            let group = Group::SmallFiles(backing);
            add(&format!("{step}-{on}"), &format!("{title}, {on}"), Unit::PerSecond, group, true);
        }
    }
    add("tail-alone", "hot lookup, p99, alone", Unit::Microseconds, Group::Tail, true);
    add(
        "tail-cold",
        "hot lookup, p99, beside a cold reader",
        Unit::Microseconds,
        Group::Tail,
        true,
    );
    add(
        "tail-unlink",
        "hot lookup, p99, beside a slow unlink",
        Unit::Microseconds,
        Group::Tail,
        true,
    );
    add("rss-idle", "resident memory, idle", Unit::Mib, Group::Memory, false);
    add("rss-inode", "resident memory, a looked-up inode", Unit::Bytes, Group::Memory, false);
    rows
}

/// The rows that `names` select: a row's name, parts of it between hyphens (`create`, `tmpfs`), or a group
/// (`data`, `small`, `tail`, `memory`).
pub(crate) fn select(names: &[String]) -> Result<Vec<Row>> {
    if names.is_empty() {
        return Ok(all());
    }
    let matches = |row: &Row, name: &str| is_part(&row.key, name) || row.group.name() == name;
    let rows = all();
    if let Some(unknown) = names.iter().find(|name| !rows.iter().any(|row| matches(row, name))) {
        return Err(unknown_row(unknown, rows.iter().map(|row| row.key.as_str())));
    }
    Ok(rows.into_iter().filter(|row| names.iter().any(|name| matches(row, name))).collect())
}

/// Those of `plans` whose rows the names select; refuses a name that selects none.
pub(crate) fn named<P>(
    mut plans: Vec<P>,
    names: &[String],
    row: impl Fn(&P) -> &Row,
) -> Result<Vec<P>> {
    let selects = |name: &String, plan: &P| is_part(&row(plan).key, name);
    if let Some(unknown) = names.iter().find(|name| !plans.iter().any(|plan| selects(name, plan))) {
        return Err(unknown_row(unknown, plans.iter().map(|plan| row(plan).key.as_str())));
    }
    plans.retain(|plan| names.is_empty() || names.iter().any(|name| selects(name, plan)));
    Ok(plans)
}

/// Whether a row's name has all that `name` has between its hyphens: `raw-d1` is part of `raw-read-d1`.
fn is_part(key: &str, name: &str) -> bool {
    name.split('-').all(|word| key.split('-').any(|part| part == word))
}

fn unknown_row<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let known: Vec<&str> = known.collect();
    anyhow!("no row is called {name}; the rows are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> Vec<String> {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        select(&names).unwrap().into_iter().map(|row| row.key).collect()
    }

    #[test]
    fn a_step_selects_both_backings() {
        assert_eq!(keys(&["create"]), ["create-tmpfs", "create-ext4"]);
    }

    #[test]
    fn a_backing_selects_every_step_on_it() {
        assert_eq!(keys(&["ext4"]).len(), SMALL.len());
    }

    #[test]
    fn a_whole_name_selects_one_row_in_table_order() {
        assert_eq!(keys(&["tail-alone", "randwrite"]), ["randwrite", "tail-alone"]);
    }

    #[test]
    fn words_of_a_name_need_not_be_neighbours() {
        assert!(is_part("raw-read-d1", "raw-d1"));
        assert!(!is_part("raw-read-d1", "raw-d32"));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert!(select(&["cretae".to_string()]).is_err());
    }
}
