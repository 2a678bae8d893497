//! Reads a tree back through a virtio-fs device and verifies every byte, while another process drops the host's caches.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use fsrv_frontend::tree::{self, Shape};
use fsrv_frontend::{Cut, Form, Framing, MountOptions};

use crate::backing::Scratch;
use crate::client;
use crate::setup;
use crate::undo::{self, Undo};

#[derive(Args)]
pub(crate) struct Options {
    /// Who serves: fsrv, fsrv-threads, virtiofsd or virtiofsd-pool
    #[arg(long, default_value = "fsrv")]
    server: String,
    /// An fsrv that is built already
    #[arg(long, value_name = "PATH")]
    fsrv: Option<PathBuf>,
    /// What `fsrv serve` is told besides the directory and the socket
    #[arg(long, value_name = "WORDS", default_value = "", allow_hyphen_values = true)]
    fsrv_args: String,
    #[arg(long, default_value_t = 50_000)]
    files: u32,
    #[arg(long, default_value_t = 2048)]
    mib: u64,
    /// Request queues; virtiofsd has one
    #[arg(long, default_value_t = 2)]
    queues: usize,
    /// Files in hand on each queue
    #[arg(long, default_value_t = 32)]
    depth: u16,
    /// Leave the host's caches alone
    #[arg(long)]
    keep_caches: bool,
    /// On a disk
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    scratch: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    undo::on_signals()?;
    let server = setup::server(&options.server, options.fsrv.as_deref(), &options.fsrv_args)?;
    let scratch = Scratch::new(&options.scratch)?;
    let dir = scratch.dir("tree")?;
    let shape = Shape::new(options.files, options.mib << 20);
    shape.make(&dir)?;
    rustix::fs::sync();

    let mount_options = MountOptions {
        queues: options.queues,
        ring_size: 1024,
        table_len: 40,
        depth: options.depth,
        data: 128 << 10,
        form: Form::Indirect,
        framing: Framing { cut: Cut::Parts, shift: 1, pages: true },
        ..MountOptions::default()
    };
    let mut running = server.start(&dir, &scratch, &mount_options)?;
    let queues = running.mount.clients.len();
    let _drops = (!options.keep_caches).then(drop_caches).transpose()?;
    let start = Instant::now();
    let seen = tree::verify(&mut running.mount.clients, &shape)?;
    let seconds = start.elapsed().as_secs_f64();
    running.mount.drain_forgets()?;
    println!(
        "{}: {} files and {} bytes in {} directories verified through {queues} queues in {seconds:.1} s",
        options.server, seen.files, seen.bytes, seen.directories
    );
    Ok(())
}

/// Another process that drops the page cache, dentries and inodes over and over.
fn drop_caches() -> Result<Undo> {
    const FILE: &str = "/proc/sys/vm/drop_caches";
    ensure!(fs::write(FILE, "3").is_ok(), "only root can drop the host's caches: run this as root");
    let mut child = Command::new("sh")
        .args(["-c", &format!("while :; do echo 3 > {FILE}; sleep 0.1; done")])
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot drop caches")?;
    let pidfd = Arc::new(client::pidfd(&child)?);
    Ok(Undo::new(move || {
        client::kill(&pidfd);
        let _ = child.wait();
    }))
}
