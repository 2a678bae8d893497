//! The same tests on the native directory and on mounts of it: any difference is a failure.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::lab::{Lab, Variant};
use crate::tally::Tally;

/// A test which uses a directory, and says what it saw there.
pub(crate) struct Case {
    name: String,
    run: Box<Observe>,
}

type Observe = dyn Fn(&Path) -> Result<String>;

impl Case {
    pub(crate) fn new(
        name: impl Into<String>,
        run: impl Fn(&Path) -> Result<String> + 'static,
    ) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }
}

/// Runs `cases` natively once, then on a mount of every variant.
pub(crate) fn compare(
    lab: &Lab,
    variants: &[Variant],
    cases: &[Case],
    tally: &mut Tally,
) -> Result<()> {
    let native = lab.directory()?;
    let mut expected = BTreeMap::new();
    for case in cases {
        let seen = observe(case, native.path());
        let seen = seen.with_context(|| format!("{} fails on the native directory", case.name))?;
        expected.insert(&case.name, seen);
    }
    for variant in variants {
        let outcome = on_mount(lab, variant, cases, &expected, tally);
        tally.count(&format!("[{}] mount and unmount", variant.name()), outcome);
    }
    Ok(())
}

fn on_mount(
    lab: &Lab,
    variant: &Variant,
    cases: &[Case],
    expected: &BTreeMap<&String, String>,
    tally: &mut Tally,
) -> Result<()> {
    let served = lab.serve(variant)?;
    for case in cases {
        let outcome =
            observe(case, served.path()).and_then(|seen| same(&expected[&case.name], &seen));
        let name = format!("[{}] {}", variant.name(), case.name);
        if outcome.is_err() {
            println!("{}", served.mount.log()?);
        }
        tally.count(&name, outcome);
    }
    served.stop()
}

/// Runs one case in a directory of its own.
fn observe(case: &Case, parent: &Path) -> Result<String> {
    let dir = tempfile::tempdir_in(parent)?;
    (case.run)(dir.path())
}

/// Fails with the first line that differs.
pub(crate) fn same(expected: &str, got: &str) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    let (mut natives, mut mounteds) = (expected.lines(), got.lines());
    loop {
        let (native, mounted) = (natives.next(), mounteds.next());
        if native != mounted {
            bail!("natively {:?}, on the mount {:?}", native.unwrap_or(""), mounted.unwrap_or(""));
        }
        if native.is_none() {
            bail!("the line ends differ");
        }
    }
}
