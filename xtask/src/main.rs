//! `cargo xtask`: sets up a machine, tests and measures fsrv. Depends on no crate of the workspace.

mod bench;
mod ci;
mod fuzz;
mod guest;
mod lab;
#[expect(dead_code, reason = "the tests of fsrv-cli use the rest")]
#[path = "../../server/cli/tests/it/mount.rs"]
mod mount;
mod program;
mod setup;
mod suites;
mod tally;
mod test;

use std::process::ExitCode;

use clap::Parser;

/// Set up a machine for fsrv, test it, measure it
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
enum Task {
    Setup(setup::Setup),
    Test(test::Test),
    Ci(ci::Ci),
    Bench(bench::Bench),
    Fuzz(fuzz::Fuzz),
    Count(suites::locks::Count),
    Exercise(suites::guest::Exercise),
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::Setup(task) => task.run(),
        Task::Test(task) => task.run(),
        Task::Ci(task) => task.run(),
        Task::Bench(task) => task.run(),
        Task::Fuzz(task) => task.run(),
        Task::Count(task) => task.run(),
        Task::Exercise(task) => task.run(),
    };
    if let Err(error) = &outcome {
        eprintln!("error: {error:#}");
    }
    ExitCode::from(u8::from(outcome.is_err()))
}
