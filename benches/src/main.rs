//! Side-by-side runs: the same work on the native directory, on fsrv and on its peers, alternating in one run.

mod backing;
mod client;
mod cost;
mod fio;
mod fuse;
mod image;
mod load;
mod machine;
mod options;
mod process;
mod report;
mod row;
mod server;
mod setup;
mod subject;
mod undo;
mod verify;
mod vhost;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure mount points
    Fuse(fuse::Options),
    /// Measure virtio-fs devices
    Vhost(vhost::Options),
    /// Measure disk images served as one raw file
    Image(image::Options),
    /// Count what requests cost servers of mount points: system calls and processor time
    Cost(cost::Options),
    /// Read a tree back through a virtio-fs device and verify every byte
    Verify(verify::Options),
    /// One load, in a process of its own; prints a line `STEP OPERATIONS VALUE SERVER_CPU_SECONDS` a step
    #[command(hide = true, subcommand)]
    Load(load::Load),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    match Args::parse().command {
        Command::Fuse(options) => fuse::run(&options),
        Command::Vhost(options) => vhost::run(&options),
        Command::Image(options) => image::run(&options),
        Command::Cost(options) => cost::run(&options),
        Command::Verify(options) => verify::run(&options),
        Command::Load(load) => load.run(),
    }
}
