//! A newer kernel, which spreads its requests over two queues.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::super::yardstick::same;
use super::{exercise, installed};
use crate::guest::{Guest, Server};
use crate::lab::Lab;
use crate::program;
use crate::setup::guest::Kernel;

const INCREMENTS: u64 = 1000;

const LIMIT: Duration = Duration::from_secs(300);

/// On each of two processors the same work; then the number of interrupts of each queue.
const SCRIPT: &str = "
work() {
    mkdir /mnt/$1 && taskset -c $1 xtask exercise /mnt/$1 >/mnt/$1.seen &&
    taskset -c $1 fsx -S $1 -N 1000 /mnt/fsx-$1 >/dev/null &&
    taskset -c $1 xtask count fcntl /mnt/number TIMES
}
work 0 & first=$!
work 1 & second=$!
wait $first && wait $second || exit
grep virtio /proc/interrupts
";

pub(super) fn two(lab: &Lab) -> Result<()> {
    Kernel::Backports.bring()?;
    let (native, dir) = (lab.directory()?, lab.directory()?);
    let number = dir.path().join("number");
    fs::write(&number, 0u64.to_le_bytes())?;
    let xtask = std::env::current_exe()?;
    let mut command = Command::new(&xtask);
    let expected = program::check(command.arg("exercise").arg(native.path()), LIMIT)?;

    let server = Server::start(lab, dir.path(), &["--queues", "2"])?;
    let guest = Guest::default().with_kernel(Kernel::Backports);
    let guest = guest.with_program(&xtask)?.with_program(&installed("fsx")?)?;
    let script = SCRIPT.replace("TIMES", &INCREMENTS.to_string());
    let printed = guest.run(&server, &script, LIMIT)?;
    server.stop()?;

    both_queues_were_used(&printed)?;
    for half in ["0", "1"] {
        same(&expected, &fs::read_to_string(dir.path().join(half).with_extension("seen"))?)?;
        let seen = exercise::describe(&dir.path().join(half))?;
        same(&exercise::describe(native.path())?, &seen)?;
    }
    let bytes = fs::read(&number)?;
    let counted = u64::from_le_bytes(bytes[..].try_into().context("the file changed its size")?);
    ensure!(counted == 2 * INCREMENTS, "{} increments made {counted}", 2 * INCREMENTS);
    Ok(())
}

/// ` 27:   1234   0   PCI-MSIX-0000:00:02.0   2-edge   virtio0-requests.1`
fn both_queues_were_used(interrupts: &str) -> Result<()> {
    let used = |line: &&str| {
        let counts = line.split_whitespace().skip(1).take(2);
        line.contains("requests")
            && counts.filter_map(|count| count.parse::<u64>().ok()).sum::<u64>() > 100
    };
    let queues = interrupts.lines().filter(used).count();
    ensure!(queues == 2, "{queues} queues were used:\n{interrupts}");
    Ok(())
}
