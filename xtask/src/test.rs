//! `cargo xtask test`

use std::path::PathBuf;
use std::process::exit;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::lab::Lab;
use crate::setup::Setup;
use crate::suites::{SUITES, Suite};
use crate::tally::Tally;

/// Run every suite, or those named
#[derive(Args)]
pub(crate) struct Test {
    /// Which suites: checks, unit, pjdfstest, fsx, fio, locks, programs, tree, stress
    suites: Vec<String>,

    /// Every cache mode too, other and more seeds, and stress-ng
    #[arg(long)]
    full: bool,

    /// Test this server on the mounts, instead of one built from this tree
    #[arg(long, value_name = "BINARY")]
    fsrv: Option<PathBuf>,
}

/// One suite's line in the table.
struct Row {
    name: &'static str,
    time: Duration,
    tally: Tally,
}

impl Test {
    pub(crate) fn run(self) -> Result<()> {
        let suites = self.chosen()?;
        Setup {}.run()?;
        let lab = Lab::open(self.fsrv, self.full)?;

        let rows: Vec<_> = suites.into_iter().map(|suite| run(suite, &lab)).collect();
        // The exit below runs no destructors, and the laboratory lies on disk.
        drop(lab);

        println!();
        rows.iter().for_each(Row::print);
        let mut total = Tally::default();
        rows.iter().for_each(|row| total += row.tally);
        println!("{total}");
        exit(i32::from(total.failed > 0));
    }

    fn chosen(&self) -> Result<Vec<&'static Suite>> {
        for name in &self.suites {
            if !SUITES.iter().any(|suite| suite.name == name) {
                let known: Vec<_> = SUITES.iter().map(|suite| suite.name).collect();
                bail!("no suite named {name}; there are {}", known.join(", "));
            }
        }
        let named = |suite: &&Suite| self.suites.iter().any(|name| name == suite.name);
        let by_default = |suite: &&Suite| self.suites.is_empty() && (self.full || !suite.only_full);
        Ok(SUITES.iter().filter(|suite| named(suite) || by_default(suite)).collect())
    }
}

/// Runs one suite. A suite that cannot run is a failure, never a skip.
fn run(suite: &'static Suite, lab: &Lab) -> Row {
    println!("\n== {}", suite.name);
    let start = Instant::now();
    let mut tally = Tally::default();
    if let Err(error) = (suite.run)(lab, &mut tally) {
        tally.count(suite.name, Err(error));
    }
    let row = Row { name: suite.name, time: start.elapsed(), tally };
    row.print();
    row
}

impl Row {
    fn print(&self) {
        println!("{:10} {:7.1} s   {}", self.name, self.time.as_secs_f64(), self.tally);
    }
}
