//! Measures mount points. Within a repetition the subjects take turns, and the first turn rotates, so that what the machine
//! does meanwhile hits all alike.

mod phase;

use std::env;
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::backing::Scratch;
use crate::machine;
use crate::options::Common;
use crate::report::{self, Ratio, Results};
use crate::row::{self, Row};
use crate::server::parse_peer;
use crate::setup;
use crate::subject::{Inodes, Subject};
use crate::undo;

#[derive(Args)]
pub(crate) struct Options {
    /// Rows or groups of rows (data, small, tail, memory; tmpfs, ext4); all if absent
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "native,fsrv,fbrs,bindfs")]
    peers: Vec<String>,
    /// Another peer, in the foreground: name=command with {dir} {mnt}
    #[arg(long = "peer", value_name = "NAME=COMMAND")]
    commands: Vec<String>,
    /// What `fsrv serve` is told besides the directory and the mount point
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "--cache always --negative-timeout 0 --allow-direct-io",
        allow_hyphen_values = true
    )]
    fsrv_args: String,
    /// The time of a data row or a row of hot lookups
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Small files
    #[arg(long, default_value_t = 5000)]
    files: usize,
    /// Files that are looked up to measure the memory of an inode
    #[arg(long, default_value_t = 1_000_000)]
    inodes: usize,
    /// The size of the files of the data rows
    #[arg(long, default_value_t = 256)]
    data_mib: u64,
    /// The size of the files whose unlink is slow
    #[arg(long, default_value_t = 1024)]
    unlink_mib: u64,
    #[command(flatten)]
    common: Common,
}

/// One run over its rows.
struct Run<'a> {
    options: &'a Options,
    rows: &'a [Row],
    subjects: &'a [Subject],
    scratch: &'a Scratch,
    program: PathBuf,
    results: Results,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "only root can mount and set halt polling: run this as root"
    );
    undo::on_signals()?;
    let rows = row::select(&options.rows)?;
    setup::programs(&rows)?;
    let mut subjects =
        setup::subjects(&options.peers, options.common.fsrv.as_deref(), &options.fsrv_args)?;
    for command in &options.commands {
        let (name, command) = parse_peer(command)?;
        subjects.push(Subject::server(name, command, "")?);
    }
    let scratch = Scratch::new(&options.common.scratch)?;
    start_each_once(&subjects, &scratch)?;

    options.common.run(introduction(options, &subjects, &scratch), |pass| {
        let rows: Vec<Row> =
            row::select(&options.rows)?.into_iter().filter(|row| pass.wants(row)).collect();
        let run = Run {
            options,
            rows: &rows,
            subjects: &subjects,
            scratch: &scratch,
            program: env::current_exe()?,
            results: Results::default(),
        };
        let results = run.measure()?;
        let names: Vec<&str> = subjects.iter().map(|subject| subject.name.as_str()).collect();
        let ours = ["native", "fsrv"];
        let peers: Vec<&str> = names.iter().copied().filter(|name| !ours.contains(name)).collect();
        let ratio = Ratio { title: "fsrv to best peer", of: "fsrv", to: &peers };
        let section = report::section(pass.halt_poll, &results, &rows, &names, &[ratio]);
        Ok((results, section))
    })
}

/// A subject that does not start must not be found out after half an hour.
fn start_each_once(subjects: &[Subject], scratch: &Scratch) -> Result<()> {
    let dir = scratch.dir("probe")?;
    for subject in subjects {
        subject.start(&dir, scratch, Inodes::Default)?;
    }
    Ok(())
}

fn introduction(options: &Options, subjects: &[Subject], scratch: &Scratch) -> String {
    let mut text = format!("{}\n\n", machine::describe(scratch.path()));
    for subject in subjects {
        if let Some(command) = subject.describe() {
            let _ = writeln!(text, "- {}: `{command}`", subject.name);
        }
    }
    let versions = setup::versions(subjects);
    if !versions.is_empty() {
        let _ = writeln!(text, "\n{versions}.");
    }
    let _ = writeln!(
        text,
        "\nMedian of {} repetitions, ± half the range, in brackets the ratio to the native directory. {} small files, {} s a data row.",
        options.common.repeat, options.files, options.seconds
    );
    text
}
