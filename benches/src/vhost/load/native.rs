//! What a plain loop of system calls makes of the same work.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::io::{preadv, pwritev};

use super::{Driven, WARM_UP};
use crate::vhost::files::LARGE;

/// Reads or writes a file from its beginning to its end, and again, with as many buffers in turn as a queue has requests.
pub(crate) fn sequential(
    file: &File,
    writes: bool,
    buffers: u16,
    time: Duration,
) -> Result<Driven> {
    let size = file.metadata()?.len();
    let mut buffers = vec![vec![1; LARGE as usize]; buffers.into()];
    let mut offset = 0;
    let mut pass = |end: Instant| -> Result<u64> {
        let mut operations = 0;
        for at in (0..buffers.len()).cycle() {
            if Instant::now() >= end {
                break;
            }
            let buffer = &mut buffers[at];
            let moved = if writes {
                pwritev(file, &[IoSlice::new(buffer)], offset)?
            } else {
                preadv(file, &mut [IoSliceMut::new(buffer)], offset)?
            };
            ensure!(moved as u64 == LARGE, "a short transfer");
            offset = (offset + LARGE) % size;
            operations += 1;
        }
        Ok(operations)
    };
    pass(Instant::now() + WARM_UP)?;
    let start = Instant::now();
    let operations = pass(start + time)?;
    Ok(Driven { operations, seconds: start.elapsed().as_secs_f64() })
}
