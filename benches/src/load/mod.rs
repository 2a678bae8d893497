//! The load generators of this package. The run starts each as a process of its own.

mod small;
mod tail;
mod tree;

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;

pub(crate) use tree::make as make_tree;

#[derive(Subcommand)]
pub(crate) enum Load {
    /// Steps on many small files in one directory
    Small(small::Options),
    /// Hot lookups at a steady rate; the slowest of a hundred
    Tail(tail::Options),
    /// Look up every file of a tree
    Walk(tree::Options),
    /// Read a file once, so that it is cached
    Warm { file: PathBuf },
}

impl Load {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Load::Small(options) => small::run(options),
            Load::Tail(options) => tail::run(options),
            Load::Walk(options) => tree::walk(options),
            Load::Warm { file } => warm(file),
        }
    }
}

/// One measurement of one row.
#[derive(Clone)]
pub(crate) struct Sample {
    /// In the row's unit.
    pub(crate) value: f64,
    pub(crate) operations: f64,
    /// What the server used for them.
    pub(crate) cpu_seconds: Option<f64>,
}

impl Sample {
    /// How a load hands its measurement to the run.
    fn print(&self, step: &str) {
        println!("{step} {} {} {}", self.operations, self.value, self.cpu_seconds.unwrap_or(-1.0));
    }

    /// The steps and samples that a load printed.
    pub(crate) fn parse(output: &str) -> Result<Vec<(String, Self)>> {
        output
            .lines()
            .map(|line| Self::parse_line(line).with_context(|| format!("the load said: {line}")))
            .collect()
    }

    fn parse_line(line: &str) -> Option<(String, Self)> {
        let mut words = line.split(' ');
        let step = words.next()?.to_owned();
        let mut number = || words.next()?.parse::<f64>().ok();
        let (operations, value, cpu) = (number()?, number()?, number()?);
        Some((step, Sample { value, operations, cpu_seconds: (cpu >= 0.0).then_some(cpu) }))
    }
}

/// Reads a file once, so that it is cached.
pub(crate) fn warm(path: &Path) -> Result<()> {
    let mut file = std::fs::File::open(path)?;
    let mut block = vec![0; 1 << 20];
    while file.read(&mut block)? > 0 {}
    Ok(())
}
