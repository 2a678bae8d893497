//! fsx inside a guest: random operations on one file, every read checked.

use std::time::Duration;

use anyhow::Result;

use super::super::fsx::{BUFFERED, MAPPED};
use super::installed;
use crate::guest::{Guest, Server};
use crate::lab::Lab;

const LIMIT: Duration = Duration::from_secs(600);

/// A short run; with `--full` longer ones of several seeds.
pub(super) fn run(lab: &Lab) -> Result<()> {
    let (seeds, operations) = if lab.full { (5, 5_000) } else { (1, 1_000) };
    let dir = lab.directory()?;
    let server = Server::start(lab, dir.path(), &[])?;
    let guest = Guest::default()
        .with_program(&installed("fsx")?)?
        .with_file("/buffered", BUFFERED)
        .with_file("/mapped", MAPPED);
    let script = format!(
        "for seed in $(seq {seeds}); do
            for config in buffered mapped; do
                fsx -S $seed -N {operations} -f /$config -P /tmp /mnt/$config-$seed || exit
            done
        done"
    );
    guest.run(&server, &script, LIMIT)?;
    server.stop()
}
