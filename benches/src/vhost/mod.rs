//! Measures virtio-fs devices by a front-end of our own. Within a repetition the servers take turns row by row, and the first
//! turn rotates, so that what the machine does meanwhile hits all alike.

mod files;
mod load;
mod phase;
mod rows;
pub(crate) mod server;

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::backing::Scratch;
use crate::machine::{self, HaltPoll, HaltPolling};
use crate::report::{self, Ratio, Results};
use crate::row::{self, Row};
use crate::server::parse_peer;
use crate::setup;
use crate::undo;
use phase::Run;
use rows::Plan;
use server::Server;

const NATIVE: &str = "native";

#[derive(Args)]
pub(crate) struct Options {
    /// Rows or parts of their names (read, d16, direct, tail); all if absent
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "native,fsrv,fsrv-threads,virtiofsd,virtiofsd-pool"
    )]
    peers: Vec<String>,
    /// Another peer, in the foreground: name=command with {dir} {socket}
    #[arg(long = "peer", value_name = "NAME=COMMAND")]
    commands: Vec<String>,
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// An fsrv that is built already
    #[arg(long, value_name = "PATH")]
    fsrv: Option<PathBuf>,
    /// What `fsrv serve` is told besides the directory and the socket
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "--allow-direct-io",
        allow_hyphen_values = true
    )]
    fsrv_args: String,
    /// How long an idle CPU polls before it halts; both measures rows of depth 1 twice
    #[arg(long, value_enum, default_value = "both")]
    halt_poll: HaltPolling,
    /// The time of a row
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// The size of the files of the data rows
    #[arg(long, default_value_t = 256)]
    data_mib: u64,
    /// On the disk to measure; O_DIRECT must work there
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    scratch: PathBuf,
    /// Where the tables go, besides standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

const RATIOS: [Ratio<'_>; 2] = [
    Ratio { title: "fsrv to best virtiofsd", of: "fsrv", to: &["virtiofsd", "virtiofsd-pool"] },
    Ratio { title: "threads to pool", of: "fsrv-threads", to: &["virtiofsd-pool"] },
];

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "only root can mount a tmpfs and set halt polling: run this as root"
    );
    undo::on_signals()?;
    select(&options.rows)?;
    let with_native = options.peers.iter().any(|name| name == NATIVE);
    if with_native {
        setup::fio()?;
    }
    let mut servers = Vec::new();
    for name in options.peers.iter().filter(|name| *name != NATIVE) {
        servers.push(setup::server(name, options.fsrv.as_deref(), &options.fsrv_args)?);
    }
    for peer in &options.commands {
        let (name, command) = parse_peer(peer)?;
        servers.push(Server::new(name, command)?);
    }
    let scratch = Scratch::new(&options.scratch)?;
    start_each_once(&servers, &scratch)?;

    let mut names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
    if with_native {
        names.insert(0, NATIVE);
    }
    let mut text = introduction(options, &servers, &scratch);
    let mut failed = false;
    for setting in options.halt_poll.settings() {
        let _halt_poll = setting.map(HaltPoll::set).transpose()?;
        // A row that no wake-up decides is measured once.
        let all = options.halt_poll != HaltPolling::Both || setting != Some(200_000);
        let plans: Vec<Plan> =
            select(&options.rows)?.into_iter().filter(|plan| all || plan.row.latency).collect();
        let run = Run {
            options,
            plans: &plans,
            servers: &servers,
            with_native,
            scratch: &scratch,
            results: Results::default(),
        };
        let results = run.measure()?;
        failed |= results.has_failures();
        let rows: Vec<Row> = plans.into_iter().map(|plan| plan.row).collect();
        text.push_str(&report::section(setting, &results, &rows, &names, &RATIOS));
    }
    print!("{text}");
    if let Some(path) = &options.out {
        fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(!failed, "rows failed: they are listed below the tables");
    Ok(())
}

/// The rows that the names select; refuses a name that selects none.
fn select(names: &[String]) -> Result<Vec<Plan>> {
    let mut plans = rows::all();
    let keys: Vec<String> = plans.iter().map(|plan| plan.row.key.clone()).collect();
    row::check_names(&keys, names)?;
    plans.retain(|plan| {
        names.is_empty() || names.iter().any(|name| row::is_part(&plan.row.key, name))
    });
    Ok(plans)
}

/// A server that does not start must not be found out after half an hour.
fn start_each_once(servers: &[Server], scratch: &Scratch) -> Result<()> {
    let dir = scratch.dir("probe")?;
    for server in servers {
        server.start(&dir, scratch, &phase::mount_options())?;
    }
    Ok(())
}

fn introduction(options: &Options, servers: &[Server], scratch: &Scratch) -> String {
    let mut text = format!("{}\n\n", machine::describe(scratch.path()));
    for server in servers {
        let _ = writeln!(text, "- {}: `{}`", server.name, server.describe());
    }
    let _ = writeln!(
        text,
        "\nMedian of {} repetitions of {} s, ± half the range, in brackets the ratio to native: fio's libaio, or a loop of \
         preadv or pwritev over as many buffers as the queue has.",
        options.repeat, options.seconds
    );
    text
}
