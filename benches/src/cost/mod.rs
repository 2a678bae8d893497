//! Measures what requests cost a server: its system calls and its processor time, for a fixed script.
//!
//! Client and server share one CPU: how often a server waits depends on nothing then but the requests.

mod trace;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::backing::{Mount, Scratch};
use crate::client;
use crate::load::Sample;
use crate::machine;
use crate::options::Common;
use crate::process;
use crate::report::{self, Ratio, Results};
use crate::row::{Group, Row, Unit};
use crate::server::parse_peer;
use crate::setup;
use crate::subject::{Inodes, Running, Subject};
use crate::undo;

use trace::Trace;

const LIMIT: Duration = Duration::from_secs(300);

/// Each works on the files that are there, and leaves them as they were.
const STEPS: [(&str, &str); 4] = [
    ("cycle", "create, unlink"),
    ("read", "open, read 4 KiB, close"),
    ("stat", "stat"),
    ("write", "open, write 4 KiB, close"),
];

#[derive(Args)]
pub(crate) struct Options {
    /// What fsrv is compared with, in the foreground: name=command with {dir} {mnt}; `before=fsrv-old serve ..`, for example
    #[arg(long = "peer", value_name = "NAME=COMMAND")]
    commands: Vec<String>,
    /// What `fsrv serve` is told besides the directory and the mount point
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "--cache never --workers 1",
        allow_hyphen_values = true
    )]
    fsrv_args: String,
    #[arg(long, default_value_t = 1000)]
    files: usize,
    /// How often each step goes over all files while processor time is measured
    #[arg(long, default_value_t = 50)]
    passes: usize,
    #[command(flatten)]
    common: Common,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "only root can mount and trace servers: run this as root"
    );
    undo::on_signals()?;
    setup::install("strace", "strace")?;
    let fsrv = ["fsrv".to_owned()];
    let mut subjects = setup::subjects(&fsrv, options.common.fsrv.as_deref(), &options.fsrv_args)?;
    for command in &options.commands {
        let (name, command) = parse_peer(command)?;
        subjects.push(Subject::server(name, command, "")?);
    }
    let scratch = Scratch::new(&options.common.scratch)?;
    let rows: Vec<Row> = STEPS.iter().flat_map(|&(key, title)| rows_of(key, title)).collect();
    let introduction = format!(
        "{}\n\nMedian of {} turns, ± half the range. {} files on tmpfs.\n",
        machine::describe(scratch.path()),
        options.common.repeat,
        options.files
    );

    options.common.run(introduction, |pass| {
        let mut run = Run {
            options,
            scratch: &scratch,
            program: env::current_exe()?,
            cpu: first_cpu()?,
            results: Results::default(),
        };
        for turn in 0..options.common.repeat {
            for at in 0..subjects.len() {
                run.turn(&subjects[(at + turn) % subjects.len()], &rows)?;
            }
        }
        let names: Vec<&str> = subjects.iter().map(|subject| subject.name.as_str()).collect();
        let ratio = Ratio { title: "fsrv to best peer", of: "fsrv", to: &names[1..] };
        let section = report::section(pass.halt_poll, &run.results, &rows, &names, &[ratio]);
        Ok((run.results, section))
    })
}

fn first_cpu() -> Result<usize> {
    let allowed = sched_getaffinity(None)?;
    (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)).context("no CPU is allowed")
}

/// The rows of one step: system calls, and microseconds in user space and altogether.
fn rows_of(step: &str, title: &str) -> [Row; 3] {
    [
        ("calls", "system calls", Unit::Calls),
        ("user", "user CPU", Unit::Microseconds),
        ("cpu", "CPU", Unit::Microseconds),
    ]
    .map(|(kind, what, unit)| Row {
        key: format!("{step}-{kind}"),
        title: format!("{title}: {what}"),
        unit,
        group: Group::Cost,
        latency: false,
        peers_do_less: false,
    })
}

/// One setting of the machine.
struct Run<'a> {
    options: &'a Options,
    scratch: &'a Scratch,
    program: PathBuf,
    /// The first that is allowed, where a server's only worker is pinned.
    cpu: usize,
    results: Results,
}

impl Run<'_> {
    /// One subject's turn: a fresh filesystem, a fresh server, all steps.
    fn turn(&mut self, subject: &Subject, rows: &[Row]) -> Result<()> {
        let mount = Mount::tmpfs(self.scratch)?;
        let running = subject.start(&mount.path, self.scratch, Inodes::Default)?;
        let dir = running.root.join("small");
        self.load(&dir, "create", 1, &running)?;
        for (rows, (step, _)) in rows.chunks(3).zip(STEPS) {
            let samples = self.step(&dir, step, &running);
            let [calls, user, cpu] = match samples {
                Ok(values) => values.map(Ok),
                Err(error) => {
                    let text = format!("{error:#}");
                    [(), (), ()].map(|()| Err(anyhow::anyhow!(text.clone())))
                }
            };
            for (row, value) in rows.iter().zip([calls, user, cpu]) {
                let sample =
                    value.map(|value| Sample { value, operations: 0.0, cpu_seconds: None });
                self.results.record(row, &subject.name, sample, self.scratch);
            }
        }
        Ok(())
    }

    /// System calls, and microseconds in user space and altogether, an operation.
    fn step(&self, dir: &Path, step: &str, running: &Running) -> Result<[f64; 3]> {
        let pid = running.pid.context("the native directory has no server")?;
        // The first pass warms up.
        self.load(dir, step, 1, running)?;
        let before = process::times(pid)?;
        let operations = self.load(dir, step, self.options.passes, running)?;
        let after = process::times(pid)?;
        let trace = Trace::start(pid, &self.scratch.dir("trace")?)?;
        let traced = self.load(dir, step, 1, running)?;
        let calls = trace.finish()? as f64 / traced;
        let microseconds = |seconds: f64| seconds * 1e6 / operations;
        let user = microseconds(after.user - before.user);
        Ok([calls, user, microseconds(after.all - before.all)])
    }

    /// How many operations it did.
    fn load(&self, dir: &Path, step: &str, passes: usize, running: &Running) -> Result<f64> {
        let (files, passes) = (self.options.files.to_string(), passes.to_string());
        let mut command = Command::new(&self.program);
        command.args(["load", "small", "--files", &files, "--steps", step, "--passes", &passes]);
        command.arg("--dir").arg(dir).args(["--cpu", &self.cpu.to_string()]);
        let output = client::run(&mut command, running.pidfd.as_ref(), LIMIT)?;
        let samples = Sample::parse(&output)?;
        Ok(samples.first().context("the load reported nothing")?.1.operations)
    }
}
