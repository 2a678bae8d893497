//! The suites of `cargo xtask test`, one a file.

mod checks;
mod fio;
mod fsx;
pub(crate) mod guest;
mod image;
pub(crate) mod locks;
mod pjdfstest;
mod programs;
mod stress;
mod tree;
mod unit;
mod vhost;
mod yardstick;

use anyhow::Result;

use crate::lab::Lab;
use crate::tally::Tally;

/// A name, and what counts its tests.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Lab, &mut Tally) -> Result<()>,
    /// Whether it takes too long for every day.
    pub(crate) only_full: bool,
}

pub(crate) static SUITES: [Suite; 12] = [
    Suite { name: "checks", run: checks::run, only_full: false },
    Suite { name: "unit", run: unit::run, only_full: false },
    Suite { name: "pjdfstest", run: pjdfstest::run, only_full: false },
    Suite { name: "fsx", run: fsx::run, only_full: false },
    Suite { name: "fio", run: fio::run, only_full: false },
    Suite { name: "locks", run: locks::run, only_full: false },
    Suite { name: "programs", run: programs::run, only_full: false },
    Suite { name: "image", run: image::run, only_full: false },
    Suite { name: "vhost", run: vhost::run, only_full: false },
    Suite { name: "guest", run: guest::run, only_full: false },
    Suite { name: "tree", run: tree::run, only_full: false },
    Suite { name: "stress", run: stress::run, only_full: true },
];
