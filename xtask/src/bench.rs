//! `cargo xtask bench`

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::program;

/// Measure fsrv beside the native directory or image and its peers
#[derive(Args)]
pub(crate) struct Bench {
    /// What to measure, and how: passed on to the benchmarks
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        program::show(
            Command::new("cargo")
                .args(["run", "--release", "--package", "fsrv-benches", "--"])
                .args(self.args),
        )
    }
}
