//! `cargo xtask test`

use std::path::PathBuf;
use std::process::exit;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::guest::Daemon;
use crate::lab::Lab;
use crate::setup::Setup;
use crate::suites::{SUITES, Suite};
use crate::tally::Tally;

/// Run every suite, or those named
#[derive(Args)]
pub(crate) struct Test {
    /// Which suites; without any, all but stress
    #[arg(value_parser = suite_names())]
    suites: Vec<String>,

    /// Every cache mode too, other and more seeds, and stress-ng
    #[arg(long)]
    full: bool,

    /// Test this server on the mounts, instead of one built from this tree
    #[arg(long, value_name = "BINARY")]
    fsrv: Option<PathBuf>,

    /// Let this server serve the virtual machines, to see what the tests make of it
    #[arg(long, value_enum, default_value_t, hide = true)]
    guest_server: Daemon,
}

/// One suite's line in the table.
struct Row {
    name: &'static str,
    time: Duration,
    tally: Tally,
}

impl Test {
    pub(crate) fn run(self) -> Result<()> {
        let mut rows = Vec::new();
        rows.push(step("setup", |_| Setup {}.run()));
        let mut lab = Lab::open(self.full, self.guest_server)?;
        rows.push(step("build", |_| lab.build(self.fsrv.as_deref())));
        for suite in self.chosen() {
            rows.push(step(suite.name, |tally| (suite.run)(&lab, tally)));
        }
        // The exit below runs no destructors, and the laboratory lies on disk.
        drop(lab);

        println!();
        rows.iter().for_each(Row::print);
        let mut total = Tally::default();
        rows.iter().for_each(|row| total += row.tally);
        println!("{total}");
        exit(i32::from(total.failed > 0));
    }

    fn chosen(&self) -> impl Iterator<Item = &'static Suite> {
        let named = |suite: &&Suite| self.suites.iter().any(|name| name == suite.name);
        let by_default = |suite: &&Suite| self.suites.is_empty() && (self.full || !suite.only_full);
        SUITES.iter().filter(move |suite| named(suite) || by_default(suite))
    }
}

fn suite_names() -> PossibleValuesParser {
    PossibleValuesParser::new(SUITES.iter().map(|suite| suite.name))
}

/// Runs one suite, or what all need. A suite that cannot run is a failure, never a skip.
fn step(name: &'static str, run: impl FnOnce(&mut Tally) -> Result<()>) -> Row {
    println!("\n== {name}");
    let start = Instant::now();
    let mut tally = Tally::default();
    if let Err(error) = run(&mut tally) {
        tally.count(name, Err(error));
    }
    let row = Row { name, time: start.elapsed(), tally };
    row.print();
    row
}

impl Row {
    fn print(&self) {
        println!("{:10} {:7.1} s   {}", self.name, self.time.as_secs_f64(), self.tally);
    }
}
