//! What reads the source: formatting, lints, documentation, licences.

use std::process::Command;

use anyhow::Result;

use crate::lab::Lab;
use crate::program;
use crate::tally::Tally;

const CHECKS: [(&str, &[&str]); 4] = [
    ("fmt", &["fmt", "--all", "--check"]),
    (
        "clippy",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--quiet",
            "--",
            "-Dwarnings",
        ],
    ),
    ("doc", &["doc", "--workspace", "--all-features", "--no-deps", "--quiet"]),
    (
        "deny",
        &["deny", "--all-features", "--log-level", "error", "check", "bans", "licenses", "sources"],
    ),
];

pub(crate) fn run(_: &Lab, tally: &mut Tally) -> Result<()> {
    for (name, args) in CHECKS {
        let outcome =
            program::show(Command::new("cargo").args(args).env("RUSTDOCFLAGS", "-Dwarnings"));
        tally.count(name, outcome);
    }
    Ok(())
}
