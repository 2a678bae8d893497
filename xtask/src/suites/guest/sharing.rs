//! Two virtual machines, each with a server of its own, and one directory.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::guest::{Guest, Server};
use crate::lab::Lab;

/// What each of two processes adds in each of two guests.
const INCREMENTS: u32 = 2000;

const LIMIT: Duration = Duration::from_secs(120);

/// Both begin when both are there: each waits until it sees what the other has made.
const SCRIPT: &str = "
touch /mnt/SELF
until [ -e /mnt/OTHER ]; do usleep 20000; done
xtask count fcntl /mnt/number TIMES & first=$!
xtask count fcntl /mnt/number TIMES & second=$!
wait $first && wait $second
";

/// No increment may be lost, within a guest and between the two.
pub(super) fn two_guests_count(lab: &Lab) -> Result<()> {
    let dir = lab.directory()?;
    let number = dir.path().join("number");
    fs::write(&number, 0u64.to_le_bytes())?;
    let xtask = std::env::current_exe()?;
    let start = || Server::start(lab, dir.path(), &["--cache", "never"]);
    let (first, second) = (start()?, start()?);
    let guest = Guest::default().with_program(&xtask)?;

    let count = |server, myself, other| guest.run(server, &script(myself, other), LIMIT);
    thread::scope(|scope| {
        let beside = scope.spawn(|| count(&second, "b", "a"));
        let here = count(&first, "a", "b");
        beside.join().expect("a guest panicked").and(here)
    })?;
    first.stop()?;
    second.stop()?;

    let bytes = fs::read(&number)?;
    let counted = u64::from_le_bytes(bytes[..].try_into().context("the file changed its size")?);
    let expected = u64::from(4 * INCREMENTS);
    ensure!(counted == expected, "{expected} increments made {counted}");
    Ok(())
}

fn script(myself: &str, other: &str) -> String {
    let times = INCREMENTS.to_string();
    SCRIPT.replace("SELF", myself).replace("OTHER", other).replace("TIMES", &times)
}
