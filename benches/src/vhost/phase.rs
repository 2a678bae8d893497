//! The phases of a run: each serves a directory by every server at once, and lets them take turns row by row.

use std::sync::{Barrier, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use fsrv_frontend::{Client, Form, MountOptions};
use rustix::fs::OFlags;

use super::files::{self, Files};
use super::load::{
    self, CreateUnlink, Driven, Getattr, Load, Lookup, OpenRelease, Read, Readdirplus, Stream,
    Write,
};
use super::rows::{Plan, Work};
use super::server::{Running, Server};
use super::{NATIVE, Options};
use crate::backing::{Mount, Scratch};
use crate::fio;
use crate::load::Sample;
use crate::process;
use crate::report::Results;
use crate::subject;

const ENOENT: i32 = 2;
/// Reads from the disk beside which a warm read is timed.
const COLD_LANES: u16 = 16;

/// One run over its rows.
pub(super) struct Run<'a> {
    pub(super) options: &'a Options,
    pub(super) plans: &'a [Plan],
    pub(super) servers: &'a [Server],
    pub(super) with_native: bool,
    pub(super) scratch: &'a Scratch,
    pub(super) results: Results,
}

/// As a guest has it: indirect tables and QEMU's size of a ring.
pub(super) fn mount_options() -> MountOptions {
    MountOptions {
        queues: 2,
        ring_size: 128,
        table_len: 8,
        depth: 128,
        data: files::LARGE as u32,
        form: Form::Indirect,
        ..MountOptions::default()
    }
}

impl Run<'_> {
    pub(super) fn measure(mut self) -> Result<Results> {
        let (tmpfs, disk): (Vec<&Plan>, Vec<&Plan>) =
            self.plans.iter().partition(|plan| plan.on_tmpfs());
        if !disk.is_empty() {
            let names: Vec<String> = self
                .servers
                .iter()
                .map(|server| server.name.clone())
                .chain([NATIVE.into()])
                .collect();
            let files = Files::make(self.scratch.dir("data")?, self.options.data_mib, &names)?;
            self.rounds(&disk, &files)?;
            std::fs::remove_dir_all(&files.dir)?;
        }
        if !tmpfs.is_empty() {
            let mount = Mount::tmpfs(self.scratch)?;
            let files = Files::make(mount.path.clone(), 1, &[])?;
            self.rounds(&tmpfs, &files)?;
        }
        Ok(self.results)
    }

    fn rounds(&mut self, plans: &[&Plan], files: &Files) -> Result<()> {
        let count = self.servers.len();
        let mut started: Vec<Option<Running>> = (0..count).map(|_| None).collect();
        for repetition in 0..self.options.common.repeat {
            for plan in plans {
                if self.with_native && has_native(plan.work) {
                    let sample = self.native(plan, files);
                    self.record(plan, NATIVE, sample);
                }
                for turn in 0..count {
                    let at = (turn + repetition) % count;
                    self.turn(plan, files, at, &mut started[at])?;
                }
            }
        }
        Ok(())
    }

    /// One row of one server, which is started if it is not there.
    fn turn(
        &mut self,
        plan: &Plan,
        files: &Files,
        at: usize,
        running: &mut Option<Running>,
    ) -> Result<()> {
        let server = &self.servers[at];
        if running.is_none() {
            match server.start(&files.dir, self.scratch, &mount_options()) {
                Ok(started) => *running = Some(started),
                Err(error) => {
                    self.record(plan, &server.name, Err(error));
                    return Ok(());
                }
            }
        }
        let Some(started) = running else { return Ok(()) };
        if plan.queues > started.mount.clients.len() {
            return Ok(());
        }
        let sample = self.sample(plan, files, &server.name, started);
        if sample.is_err() {
            // What it left in its queue would disturb the next row.
            *running = None;
        }
        self.record(plan, &server.name, sample);
        Ok(())
    }

    fn sample(
        &self,
        plan: &Plan,
        files: &Files,
        server: &str,
        running: &mut Running,
    ) -> Result<Sample> {
        if plan.work == Work::Tail {
            return self.tail(files, running);
        }
        if plan.work != Work::Direct {
            files.warm("read")?;
        }
        let (time, pid) = (Duration::from_secs(self.options.seconds), running.pid);
        let clients = &mut running.mount.clients[..plan.queues];
        let barrier = Barrier::new(clients.len());
        let before = Mutex::new(None);
        let begin = || {
            if barrier.wait().is_leader() {
                *before.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) =
                    process::cpu_seconds(pid).ok();
            }
        };
        let driven = std::thread::scope(|scope| {
            let threads: Vec<_> = clients
                .iter_mut()
                .enumerate()
                .map(|(number, client)| {
                    let job = Job { plan, files, server, time, number: number as u64 };
                    scope.spawn(move || job.run(client, begin))
                })
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Driven>>| {
                thread.join().map_err(|_| anyhow!("a load panicked"))?
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        let after = process::cpu_seconds(pid)?;
        let before = before.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        if matches!(plan.work, Work::Write | Work::SequentialWrite) {
            // The disk must not work for this row while the next is measured.
            rustix::fs::sync();
        }
        Ok(Sample {
            value: driven.iter().map(|driven| driven.operations as f64 / driven.seconds).sum(),
            operations: driven.iter().map(|driven| driven.operations as f64).sum(),
            cpu_seconds: before.map(|before| after - before),
        })
    }

    fn tail(&self, files: &Files, running: &mut Running) -> Result<Sample> {
        files.warm("read")?;
        let before = process::cpu_seconds(running.pid)?;
        let client = running.mount.client();
        let warm = files.open(client, "read", OFlags::RDONLY)?;
        let direct = files.open(client, "direct", OFlags::DIRECT)?;
        let lanes = COLD_LANES + 1;
        let (loads, time) = (
            (Read::new(warm, lanes, 1), Read::new(direct, lanes, 2)),
            Duration::from_secs(self.options.seconds),
        );
        let (value, operations) = load::tail(client, loads.0, loads.1, COLD_LANES, time)?;
        warm.close(client)?;
        direct.close(client)?;
        let cpu_seconds = Some(process::cpu_seconds(running.pid)? - before);
        Ok(Sample { value, operations: operations as f64, cpu_seconds })
    }

    fn native(&self, plan: &Plan, files: &Files) -> Result<Sample> {
        let seconds = self.options.seconds;
        if plan.work == Work::Direct {
            let work = fio::Work {
                job: fio::Job {
                    rw: "randread",
                    engine: fio::Engine::Direct(plan.depth),
                    jobs: 1,
                    block: fio::SMALL,
                },
                file: &files.path("direct"),
                mib: self.options.data_mib,
                amount: fio::Amount::Seconds(seconds),
            };
            return fio::run(&work, &subject::Running::native(&files.dir));
        }
        let writes = plan.work == Work::SequentialWrite;
        let name = if writes { NATIVE } else { "read" };
        files.warm(name)?;
        let file = files::open_native(&files.path(name), writes)?;
        // A client has one more request's memory than it has in flight.
        let buffers = plan.depth + 1;
        let driven = load::native_sequential(&file, writes, buffers, Duration::from_secs(seconds))?;
        if writes {
            rustix::fs::sync();
        }
        let operations = driven.operations as f64;
        Ok(Sample { value: operations / driven.seconds, operations, cpu_seconds: None })
    }

    fn record(&mut self, plan: &Plan, subject: &str, sample: Result<Sample>) {
        self.results.record(&plan.row, subject, sample, self.scratch);
    }
}

fn has_native(work: Work) -> bool {
    matches!(work, Work::Direct | Work::SequentialRead | Work::SequentialWrite)
}

/// One client's part of a row.
struct Job<'a> {
    plan: &'a Plan,
    files: &'a Files,
    server: &'a str,
    time: Duration,
    /// Of the client.
    number: u64,
}

impl Job<'_> {
    fn run(&self, client: &mut Client, begin: impl FnOnce()) -> Result<Driven> {
        let (depth, files) = (self.plan.depth, self.files);
        match self.plan.work {
            Work::Read => self.on_file(client, "read", OFlags::RDONLY, begin, |file| {
                Read::new(file, depth, self.number + 1)
            }),
            Work::Direct => self.on_file(client, "direct", OFlags::DIRECT, begin, |file| {
                Read::new(file, depth, self.number + 1)
            }),
            Work::Write => self.on_file(client, self.server, OFlags::RDWR, begin, |file| {
                Write::new(file, self.number + 1)
            }),
            Work::SequentialRead => self.on_file(client, "read", OFlags::RDONLY, begin, |file| {
                Stream { file, writes: false, next: 0 }
            }),
            Work::SequentialWrite => {
                self.on_file(client, self.server, OFlags::RDWR, begin, |file| Stream {
                    file,
                    writes: true,
                    next: 0,
                })
            }
            Work::Getattr => {
                let node = Files::directory(client, "read")?;
                self.drive(client, &mut Getattr { node }, begin)
            }
            Work::Lookup | Work::Negative => {
                let absent = self.plan.work == Work::Negative;
                let names = if absent { Files::absent_names() } else { Files::names() };
                let parent = Files::directory(client, "names")?;
                let errno = if absent { ENOENT } else { 0 };
                self.drive(client, &mut Lookup::new(parent, names, errno), begin)
            }
            Work::OpenRelease => {
                let node = Files::directory(client, "read")?;
                self.drive(client, &mut OpenRelease::new(node, depth), begin)
            }
            Work::CreateUnlink => {
                let parent = Files::directory(client, "names")?;
                self.drive(client, &mut CreateUnlink::new(parent, depth), begin)
            }
            Work::Readdirplus => {
                let node = Files::directory(client, "listed")?;
                self.drive(client, &mut Readdirplus::new(node, depth), begin)
            }
            Work::Tail => bail!("the tail is not a rate of {}", files.dir.display()),
        }
    }

    fn on_file<L: Load>(
        &self,
        client: &mut Client,
        name: &str,
        flags: OFlags,
        begin: impl FnOnce(),
        load: impl FnOnce(files::OpenFile) -> L,
    ) -> Result<Driven> {
        let file = self.files.open(client, name, flags).with_context(|| format!("file {name}"))?;
        let driven = self.drive(client, &mut load(file), begin)?;
        file.close(client)?;
        Ok(driven)
    }

    fn drive(
        &self,
        client: &mut Client,
        load: &mut impl Load,
        begin: impl FnOnce(),
    ) -> Result<Driven> {
        load::drive(client, self.plan.depth, load, self.time, begin)
    }
}
