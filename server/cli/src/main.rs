//! The program `fsrv`: it puts the parts of fsrv together for operators.

mod args;
mod containment;
mod engine;
mod group;
mod limits;
mod logging;
mod mount_program;
mod printable;
mod report;
mod serve;
mod share;
mod shutdown;
mod signals;

use std::process::ExitCode;

use args::{Cli, Command};

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if let Some(name) = mount_program::name(&words) {
        return mount_program::main(&name, &words[1..]);
    }
    match Cli::parse(words) {
        Ok(Cli { command: Command::Serve(serve) }) => serve::main(*serve),
        Err(usage) => report::usage(&usage),
    }
}
