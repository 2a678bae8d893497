//! A client that does everything at once.

use std::{io, sync::Arc, time::Duration};

use fsrv_blockimage::{Disk, Options, Zeroing};
use fsrv_transport::{
    io::Engine,
    mem::{InBuf, OutBuf, Pool},
    testing::engines,
    worker::{Host, Worker},
};
use futures::future::join_all;
use tokio::sync::oneshot;

use crate::{
    recorder::{GuestOp, Log, Recorder},
    seed::Seed,
};

/// Longer than any workload takes: what hangs, fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// What to do.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) seed: u64,
    pub(crate) tasks: u64,
    /// Of each task.
    pub(crate) ops: u64,
    /// The longest write.
    pub(crate) write_max: u64,
    /// The length that the image may get, and what all lengths are multiples of.
    pub(crate) len_max: u64,
    pub(crate) len_step: u64,
    /// How much of what is done is to zero something, in percent, at most 60.
    pub(crate) zeroing: u64,
}

/// What a workload did, and what the image read as at its end, unless it could not even be opened.
pub(crate) struct Outcome {
    pub(crate) log: Log,
    pub(crate) content: Option<io::Result<Vec<u8>>>,
}

impl Workload {
    /// Runs it on the image, on a worker of each engine. In the end the host has no faults, and all is flushed.
    pub(crate) fn run(&self, options: &Options, recorder: &Arc<Recorder>) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let content = runtime.block_on(async {
            let ended = tokio::time::timeout(PATIENCE, self.run_on_workers(options, recorder));
            ended.await.unwrap_or_else(|_| panic!("it hangs: {self:?}"))
        });
        Outcome { log: recorder.take_log(), content }
    }

    async fn run_on_workers(
        &self,
        options: &Options,
        recorder: &Arc<Recorder>,
    ) -> Option<io::Result<Vec<u8>>> {
        let workers = [start(Engine::Threads).await, start(other_engine()).await];
        let (opened, probe) = (options.clone(), recorder.clone());
        let disk = on(&workers[0], || async move { Disk::open_probed(&opened, probe).await });
        let disk = Arc::new(disk.await.ok()?);
        let clients = (0..self.tasks).map(|task| {
            let client = Client {
                disk: disk.clone(),
                recorder: recorder.clone(),
                seed: Seed::part(self.seed, task),
                workload: self.clone(),
                pool: Pool::new(),
            };
            on(&workers[(task % 2) as usize], || client.run())
        });
        join_all(clients).await;
        recorder.mend();
        let recorder = recorder.clone();
        let last = || async move {
            let _ = recorder.guest(GuestOp::Flush, disk.flush(), |()| true).await;
            read_all(&disk).await
        };
        Some(on(&workers[0], last).await)
    }
}

/// Runs a future on a worker.
async fn on<T: Send + 'static, F: Future<Output = T> + 'static>(
    worker: &Host,
    job: impl FnOnce() -> F + Send + 'static,
) -> T {
    let (done, result) = oneshot::channel();
    worker.run(move || async move {
        let _ = done.send(job().await);
    });
    result.await.expect("it panicked on the worker")
}

async fn start(engine: Engine) -> Host {
    let worker = Worker { name: "test".into(), cpu: None, engine };
    Host::start(worker, || Ok(())).await.unwrap()
}

fn other_engine() -> Engine {
    *engines().last().expect("threads at least")
}

/// The whole content.
pub(crate) async fn read_all(disk: &Disk) -> io::Result<Vec<u8>> {
    const PIECE: u64 = 1 << 20;
    let (pool, len) = (Pool::new(), disk.len());
    let mut content = Vec::new();
    for offset in (0..len).step_by(PIECE as usize) {
        let piece = PIECE.min(len - offset) as usize;
        let read = disk.read(OutBuf::new(&pool, piece), offset).await?;
        assert_eq!(read.len(), piece, "at {offset} of {len}");
        content.extend_from_slice(read.as_host_bytes());
    }
    Ok(content)
}

/// One of the tasks that change the image.
struct Client {
    disk: Arc<Disk>,
    recorder: Arc<Recorder>,
    seed: Seed,
    workload: Workload,
    pool: Pool,
}

impl Client {
    /// Goes on after errors: whoever asked for faults finds them in the log.
    async fn run(mut self) {
        for _ in 0..self.workload.ops {
            let zeroing = 80 - self.workload.zeroing..80;
            let _ = match self.seed.below(100) {
                kind if zeroing.contains(&kind) => self.zero().await,
                0..80 => self.write().await,
                80..84 => self.grow().await,
                84..92 => self.flush().await,
                _ => self.read().await,
            };
        }
    }

    async fn write(&mut self) -> io::Result<()> {
        let (offset, len) = self.place(self.workload.write_max);
        let data = self.seed.bytes(usize::try_from(len).unwrap());
        let write = self.disk.write(InBuf::copied(&self.pool, &data), offset);
        let op = GuestOp::Write { offset, data };
        let is_whole = |&written: &usize| written as u64 == len;
        self.recorder.guest(op, write, is_whole).await.map(drop)
    }

    async fn zero(&mut self) -> io::Result<()> {
        let (offset, len) = self.place(4 * self.workload.write_max);
        let how = if self.seed.in_percent(50) { Zeroing::Free } else { Zeroing::Keep };
        let zero = self.disk.zero(offset, len, how);
        self.recorder.guest(GuestOp::Zero { offset, len }, zero, |()| true).await
    }

    async fn grow(&mut self) -> io::Result<()> {
        let room = self.workload.len_max.saturating_sub(self.disk.len());
        if room == 0 {
            return Ok(());
        }
        let len = self.disk.len() + self.seed.len(room).next_multiple_of(self.workload.len_step);
        let grow = self.disk.grow(len, self.seed.in_percent(50));
        self.recorder.guest(GuestOp::Grow(len), grow, |()| true).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.recorder.guest(GuestOp::Flush, self.disk.flush(), |()| true).await
    }

    async fn read(&mut self) -> io::Result<()> {
        let (offset, len) = self.place(self.workload.write_max);
        let room = OutBuf::new(&self.pool, usize::try_from(len).unwrap());
        let read = self.disk.read(room, offset).await?;
        assert_eq!(read.len() as u64, len);
        Ok(())
    }

    /// An offset and a length inside: half of them aligned, half of them near others.
    fn place(&mut self, most: u64) -> (u64, u64) {
        let len = self.disk.len();
        let near = self.seed.in_percent(50);
        let offset = if near { self.seed.below(len / 8) } else { self.seed.below(len) };
        let mut range = offset..(offset + self.seed.len(most)).min(len);
        if self.seed.in_percent(50) {
            const SECTOR: u64 = 512;
            range = range.start / SECTOR * SECTOR..range.end.next_multiple_of(SECTOR).min(len);
        }
        (range.start, range.end - range.start)
    }
}
