//! The workspace's own tests, and the examples in its documentation.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::lab::Lab;
use crate::program;
use crate::tally::Tally;

/// How many cases a property test has with `--full`.
const FULL_CASES: &str = "2000";

pub(crate) fn run(lab: &Lab, tally: &mut Tally) -> Result<()> {
    *tally += nextest(lab)?;
    *tally += doctests()?;
    Ok(())
}

fn nextest(lab: &Lab) -> Result<Tally> {
    let mut command = Command::new("cargo");
    command.args(["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"]);
    command.args(["--config-file", "xtask/nextest.toml"]);
    command.args(["--status-level", "slow", "--final-status-level", "fail", "--color", "never"]);
    if lab.full {
        let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs().to_string();
        println!("PROPTEST_CASES={FULL_CASES} PROPTEST_RNG_SEED={seed}");
        command.env("PROPTEST_CASES", FULL_CASES).env("PROPTEST_RNG_SEED", seed);
    }
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;

    let mut summary = None;
    for line in BufReader::new(child.stderr.take().context("no stderr")?).lines() {
        let line = line?;
        println!("{line}");
        if line.trim_start().starts_with("Summary") {
            summary = Some(nextest_summary(&line));
        }
    }
    let status = child.wait()?;
    let Some(tally) = summary else { bail!("the tests did not run: nextest ended with {status}") };
    if tally.passed == 0 || status.success() != (tally.failed == 0) {
        bail!("nextest ended with {status} and reported {tally}");
    }
    Ok(tally)
}

/// `Summary [   0.9s] 9 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 2 skipped`
fn nextest_summary(line: &str) -> Tally {
    let mut tally = Tally::default();
    let outcomes = line.split_once("run: ").map_or("", |(_, outcomes)| outcomes);
    for (number, outcome) in outcomes.split(", ").filter_map(|part| part.split_once(' ')) {
        let number: usize = number.parse().unwrap_or(0);
        match outcome.split(' ').next() {
            Some("passed") => tally.passed += number,
            Some("skipped") => tally.skipped += number,
            _ => tally.failed += number,
        }
    }
    tally
}

/// nextest does not run them.
fn doctests() -> Result<Tally> {
    let mut command = Command::new("cargo");
    command.args(["test", "--workspace", "--all-features", "--doc", "--no-fail-fast", "--quiet"]);
    let finished = program::run(&mut command, Duration::from_secs(900))?;

    let mut tally = Tally::default();
    for line in finished.stdout.lines().filter(|line| line.starts_with("test result: ")) {
        tally += doctest_summary(line);
    }
    if !finished.status.success() {
        println!("{}", finished.quote());
    }
    if finished.status.success() != (tally.failed == 0) {
        bail!("the documentation's examples ended with {}", finished.status);
    }
    Ok(tally)
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
fn doctest_summary(line: &str) -> Tally {
    let words: Vec<_> = line.split([' ', ';']).collect();
    let before = |word| {
        let at = words.iter().position(|&other| other == word)?;
        words[at.checked_sub(1)?].parse().ok()
    };
    Tally {
        passed: before("passed").unwrap_or(0),
        failed: before("failed").unwrap_or(0),
        skipped: before("ignored").unwrap_or(0),
    }
}
