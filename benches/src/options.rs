//! What every run is told, and its course: the settings of the machine one after the other, then the tables.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::machine::{HaltPoll, HaltPolling};
use crate::report::Results;
use crate::row::Row;

#[derive(Args)]
pub(crate) struct Common {
    #[arg(long, default_value_t = 5)]
    pub(crate) repeat: usize,
    /// An fsrv that is built already
    #[arg(long, value_name = "PATH")]
    pub(crate) fsrv: Option<PathBuf>,
    /// How long an idle CPU polls before it halts; both measures rows that wake-ups decide twice
    #[arg(long, value_enum, default_value = "both")]
    halt_poll: HaltPolling,
    /// On the disk to measure; O_DIRECT must work there
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub(crate) scratch: PathBuf,
    /// Where the tables go, besides standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// One setting of the machine.
pub(crate) struct Pass {
    /// Of halt polling, if it can be set.
    pub(crate) halt_poll: Option<u32>,
    latency_only: bool,
}

impl Pass {
    /// A row that no wake-up decides is measured once.
    pub(crate) fn wants(&self, row: &Row) -> bool {
        row.latency || !self.latency_only
    }
}

impl Common {
    /// Measures with each setting of the machine, and prints the introduction and what each gave.
    pub(crate) fn run(
        &self,
        introduction: String,
        mut measure: impl FnMut(&Pass) -> Result<(Results, String)>,
    ) -> Result<()> {
        let mut text = introduction;
        let mut failed = false;
        for halt_poll in self.halt_poll.settings() {
            let _halt_poll = halt_poll.map(HaltPoll::set).transpose()?;
            let again = self.halt_poll == HaltPolling::Both && halt_poll == Some(200_000);
            let (results, section) = measure(&Pass { halt_poll, latency_only: again })?;
            failed |= results.has_failures();
            text.push_str(&section);
        }
        print!("{text}");
        if let Some(path) = &self.out {
            fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        ensure!(!failed, "rows failed: they are listed below the tables");
        Ok(())
    }
}
