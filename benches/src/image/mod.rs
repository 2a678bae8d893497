//! Measures disk images served as one raw file. Within a repetition the subjects take turns row by row, and the first turn
//! rotates, so that what the machine does meanwhile hits all alike.

pub(crate) mod export;
mod images;
mod phase;
mod rows;

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
use export::Export;
use images::Images;
use phase::Run;
use rows::Plan;

#[derive(Args)]
pub(crate) struct Options {
    /// Rows or parts of their names (raw, direct, thin, full; read-d1, seqwrite); all if absent
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "native,loop,fsrv,qsd")]
    peers: Vec<String>,
    /// Another peer, in the foreground: name=command with {image} {format} {mnt}, and {direct} if it can
    #[arg(long = "peer", value_name = "NAME=COMMAND")]
    commands: Vec<String>,
    /// What `fsrv serve` is told besides the image, its format and the mount point
    #[arg(long, value_name = "WORDS", default_value = "", allow_hyphen_values = true)]
    fsrv_args: String,
    /// The time of a row, except of writes to a new thin image
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// The size of the images' content
    #[arg(long, default_value_t = 1024)]
    data_mib: u64,
    /// One turn of a second each on small images
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    common: Common,
}

/// How much is done.
#[derive(Clone, Copy)]
struct Extent {
    repeat: usize,
    seconds: u64,
    mib: u64,
}

impl Options {
    fn extent(&self) -> Extent {
        if self.quick {
            return Extent { repeat: 1, seconds: 1, mib: 256 };
        }
        Extent { repeat: self.common.repeat, seconds: self.seconds, mib: self.data_mib }
    }
}

const RATIOS: [Ratio<'_>; 2] = [
    Ratio { title: "fsrv to qsd", of: "fsrv", to: &["qsd"] },
    Ratio { title: "threads to qsd", of: "fsrv-threads", to: &["qsd"] },
];

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "only root can mount and make loop devices: run this as root"
    );
    undo::on_signals()?;
    rows::select(&options.rows)?;
    setup::image_programs()?;
    let mut exports = Vec::new();
    for name in &options.peers {
        exports.push(setup::export(name, options.common.fsrv.as_deref(), &options.fsrv_args)?);
    }
    for peer in &options.commands {
        let (name, command) = parse_peer(peer)?;
        exports.push(Export::server(name, command, "")?);
    }
    let scratch = Scratch::new(&options.common.scratch)?;
    let extent = options.extent();
    let images = Images::make(scratch.dir("images")?, extent.mib)?;

    options.common.run(introduction(extent, &exports, &scratch), |pass| {
        let plans: Vec<Plan> =
            rows::select(&options.rows)?.into_iter().filter(|plan| pass.wants(&plan.row)).collect();
        let run = Run {
            extent,
            plans: &plans,
            exports: &exports,
            images: &images,
            scratch: &scratch,
            results: Results::default(),
        };
        let results = run.measure()?;
        let targets = targets(&plans, &results);
        let rows: Vec<Row> = plans.into_iter().map(|plan| plan.row).collect();
        let names: Vec<&str> = exports.iter().map(|export| export.name.as_str()).collect();
        let section = report::section(pass.halt_poll, &results, &rows, &names, &RATIOS);
        Ok((results, section + &targets))
    })
}

fn introduction(extent: Extent, exports: &[Export], scratch: &Scratch) -> String {
    let mut text = format!("{}\n\n", machine::describe(scratch.path()));
    for export in exports {
        if let Some(command) = export.describe() {
            let _ = writeln!(text, "- {}: `{command}`", export.name);
        }
    }
    let _ = writeln!(
        text,
        "\n{}.\n\nMedian of {} repetitions of {} s, ± half the range. Images of {} MiB, in the host's page cache; fio, libaio, \
         O_DIRECT on the export. native: on the image's file, loop: on a loop device on it. Writes to a thin image: an eighth \
         of a new one (small blocks), or all of it once.",
        setup::qemu_version(),
        extent.repeat,
        extent.seconds,
        extent.mib
    );
    text
}

/// What was to be reached, and what was.
fn targets(plans: &[Plan], results: &Results) -> String {
    let lines: Vec<[String; 4]> = plans
        .iter()
        .filter_map(|plan| {
            let (target, row) = (&plan.target, &plan.row);
            let measured = results.median(row, "fsrv")? / results.median(row, target.of)?;
            let verdict = if measured >= target.times { "met" } else { "missed" };
            Some([
                row.title.clone(),
                format!("{} of {}", target.times, target.of),
                format!("{measured:.2}"),
                verdict.into(),
            ])
        })
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let mut table = format!("\n{}", report::head(&["work", "target", "measured", ""]));
    lines.iter().for_each(|line| report::line(&mut table, line));
    table
}
