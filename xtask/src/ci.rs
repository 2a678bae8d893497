//! `cargo xtask ci`

use std::process::{Command, Stdio};

use anyhow::Result;
use clap::Args;

use crate::lab;
use crate::program;

/// Run .ci/run in a fresh clone of HEAD, with nothing built: what a machine that never saw fsrv does
#[derive(Args)]
pub(crate) struct Ci {
    /// Arguments of `cargo xtask test`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Ci {
    pub(crate) fn run(self) -> Result<()> {
        let place = lab::scratch()?;
        let clone = place.path().join("fsrv");
        program::show(Command::new("git").args(["clone", "--quiet", "."]).arg(&clone))?;
        program::show(
            Command::new("./.ci/run")
                .args(self.args)
                .current_dir(&clone)
                .env_remove("CARGO_TARGET_DIR")
                .stdin(Stdio::null()),
        )
    }
}
