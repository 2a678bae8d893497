//! The loop against a client that does everything at once.
//!
//! `FSRV_SEED=n` runs the seed `n` alone, and `FSRV_SEEDS=n` that many.

mod known;
mod requests;
mod scripted;
mod seed;
mod threads;
mod turns;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// How many seeds each of the four tests runs.
const SEEDS: u64 = 25_000;

fn run_seeds(part: u64) {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let seeds = match number("FSRV_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let count = number("FSRV_SEEDS").map_or(SEEDS, |all| all.div_ceil(4));
            part * count..(part + 1) * count
        }
    };
    for seed in seeds {
        let run = || runtime.block_on(world::run(seed));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            eprintln!("seed {seed} fails; FSRV_SEED={seed} runs it alone");
            resume_unwind(panic);
        }
    }
}

#[test]
fn every_request_is_answered_once_and_nothing_is_left_first_quarter() {
    run_seeds(0);
}

#[test]
fn every_request_is_answered_once_and_nothing_is_left_second_quarter() {
    run_seeds(1);
}

#[test]
fn every_request_is_answered_once_and_nothing_is_left_third_quarter() {
    run_seeds(2);
}

#[test]
fn every_request_is_answered_once_and_nothing_is_left_fourth_quarter() {
    run_seeds(3);
}
