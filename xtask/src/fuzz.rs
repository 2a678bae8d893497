//! `cargo xtask fuzz`

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::program;
use crate::setup;

/// The packages that hold fuzz targets.
const FUZZED: [&str; 3] = ["transport", "server", "fs-blockimage"];

/// What takes longer than this many seconds hangs; inputs are long from the beginning.
const FUZZER_OPTIONS: [&str; 2] = ["-timeout=60", "-len_control=0"];

/// Fuzz one target, or each for a minute
#[derive(Args)]
pub(crate) struct Fuzz {
    /// The target; without it, every one in turn
    target: Option<String>,

    /// How long each target runs
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    time: u32,
}

impl Fuzz {
    pub(crate) fn run(self) -> Result<()> {
        setup::crate_program(&setup::CARGO_FUZZ)?;
        let mut targets = targets()?;
        if let Some(wanted) = &self.target {
            targets.retain(|(_, name)| name == wanted);
        }
        if targets.is_empty() {
            bail!("no fuzz target named {:?}", self.target.unwrap_or_default());
        }
        for (package, target) in targets {
            program::show(
                Command::new("cargo")
                    .args(["fuzz", "run", &target, "--"])
                    .args(FUZZER_OPTIONS)
                    .arg(format!("-max_total_time={}", self.time))
                    .current_dir(package)
                    // The sanitizer's flags are unstable, and this lets the stable compiler take them.
                    .env("RUSTC_BOOTSTRAP", "1"),
            )?;
        }
        Ok(())
    }
}

fn targets() -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for package in FUZZED {
        let sources = Path::new(package).join("fuzz/fuzz_targets");
        if !sources.exists() {
            continue;
        }
        for source in sources.read_dir()? {
            let source = source?.path();
            let name = source.file_stem().context("a fuzz target without a name")?;
            found.push((package.into(), name.to_string_lossy().into_owned()));
        }
    }
    found.sort();
    Ok(found)
}
