//! Measures virtio-fs devices by a front-end of our own. Within a repetition the servers take turns row by row, and the first
//! turn rotates, so that what the machine does meanwhile hits all alike.

mod files;
mod load;
mod phase;
mod rows;
pub(crate) mod server;

use std::fmt::Write;

use anyhow::{Result, ensure};
use clap::Args;

use crate::backing::Scratch;
use crate::machine;
use crate::options::Common;
use crate::report::{self, Ratio, Results};
use crate::row::Row;
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
    /// What `fsrv serve` is told besides the directory and the socket
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "--allow-direct-io",
        allow_hyphen_values = true
    )]
    fsrv_args: String,
    /// The time of a row
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// The size of the files of the data rows
    #[arg(long, default_value_t = 256)]
    data_mib: u64,
    #[command(flatten)]
    common: Common,
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
    rows::select(&options.rows)?;
    let with_native = options.peers.iter().any(|name| name == NATIVE);
    if with_native {
        setup::fio()?;
    }
    let mut servers = Vec::new();
    for name in options.peers.iter().filter(|name| *name != NATIVE) {
        servers.push(setup::server(name, options.common.fsrv.as_deref(), &options.fsrv_args)?);
    }
    for peer in &options.commands {
        let (name, command) = parse_peer(peer)?;
        servers.push(Server::new(name, command)?);
    }
    let scratch = Scratch::new(&options.common.scratch)?;
    start_each_once(&servers, &scratch)?;

    let mut names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
    if with_native {
        names.insert(0, NATIVE);
    }
    options.common.run(introduction(options, &servers, &scratch), |pass| {
        let plans: Vec<Plan> =
            rows::select(&options.rows)?.into_iter().filter(|plan| pass.wants(&plan.row)).collect();
        let run = Run {
            options,
            plans: &plans,
            servers: &servers,
            with_native,
            scratch: &scratch,
            results: Results::default(),
        };
        let results = run.measure()?;
        let rows: Vec<Row> = plans.into_iter().map(|plan| plan.row).collect();
        let section = report::section(pass.halt_poll, &results, &rows, &names, &RATIOS);
        Ok((results, section))
    })
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
        options.common.repeat, options.seconds
    );
    text
}
