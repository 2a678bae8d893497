//! The phases of a run: each makes what its rows need, and lets the subjects take turns.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Run;
use crate::backing::{self, Mount};
use crate::client;
use crate::fio;
use crate::load::{self, Sample};
use crate::process;
use crate::report::Results;
use crate::row::{Backing, Group, Row};
use crate::subject::{Inodes, Running, Subject};

const LIMIT: Duration = Duration::from_secs(120);
const WALK_LIMIT: Duration = Duration::from_secs(900);
/// One is unlinked after the other: enough lookups fall beside them.
const SLOW_UNLINKS: usize = 3;
const UNLINK_LIMIT_SECONDS: u64 = 20;
const COLD_MIB: u64 = 1024;

impl<'a> Run<'a> {
    pub(super) fn measure(mut self) -> Result<Results> {
        self.data()?;
        for backing in Backing::ALL {
            self.small_files(backing)?;
        }
        self.tail_on_disk()?;
        self.tail_beside_unlink()?;
        self.memory()?;
        Ok(self.results)
    }

    /// All subjects serve one directory at once, so that they take turns row by row.
    fn data(&mut self) -> Result<()> {
        let rows = self.rows_of(Group::Data);
        if rows.is_empty() {
            return Ok(());
        }
        let mib = self.options.data_mib;
        let dir = self.scratch.dir("data")?;
        backing::write_file(&dir.join("read"), mib)?;
        let mut started = Vec::new();
        for subject in self.subjects {
            backing::write_file(&dir.join(&subject.name), mib)?;
            started.push(subject.start(&dir, self.scratch, Inodes::Default)?);
        }
        for repetition in 0..self.options.common.repeat {
            for row in &rows {
                for at in self.turns(repetition) {
                    let (subject, running) = (&self.subjects[at], &started[at]);
                    let sample = self.data_row(row, subject, running);
                    self.record(row, subject, sample);
                }
            }
        }
        drop(started);
        Ok(fs::remove_dir_all(dir)?)
    }

    fn data_row(&self, row: &Row, subject: &Subject, running: &Running) -> Result<Sample> {
        let file = if row.key.contains("write") { subject.name.as_str() } else { "read" };
        let file = running.root.join(file);
        if row.key != "direct" {
            self.client(&["warm", &file.to_string_lossy()], running, LIMIT)?;
        }
        let work = fio::Work {
            job: fio::Job::of_row(&row.key)?,
            file: &file,
            mib: self.options.data_mib,
            amount: fio::Amount::Seconds(self.options.seconds),
        };
        fio::run(&work, running)
    }

    /// A fresh filesystem and a fresh mount for every turn: what was deleted before decides what ext4 does next.
    fn small_files(&mut self, backing: Backing) -> Result<()> {
        let rows = self.rows_of(Group::SmallFiles(backing));
        if rows.is_empty() {
            return Ok(());
        }
        for repetition in 0..self.options.common.repeat {
            for at in self.turns(repetition) {
                let subject = &self.subjects[at];
                let mount = match backing {
                    Backing::Tmpfs => Mount::tmpfs(self.scratch)?,
                    Backing::Ext4 => Mount::ext4(self.scratch)?,
                };
                let samples = subject
                    .start(&mount.path, self.scratch, Inodes::Default)
                    .and_then(|running| self.small_steps(&rows, &running));
                for row in &rows {
                    let sample = match &samples {
                        Ok(samples) => find(samples, step_of(row)),
                        Err(error) => Err(anyhow::anyhow!("{error:#}")),
                    };
                    self.record(row, subject, sample);
                }
            }
        }
        Ok(())
    }

    fn small_steps(&self, rows: &[&Row], running: &Running) -> Result<Vec<(String, Sample)>> {
        let mut steps: Vec<&str> = rows.iter().map(|row| step_of(row)).collect();
        if steps[0] != "create" {
            steps.insert(0, "create");
        }
        let dir = running.root.join("small");
        let (files, steps) = (self.options.files.to_string(), steps.join(","));
        let dir = dir.to_string_lossy();
        let mut words = vec!["small", "--dir", &dir, "--files", &files, "--steps", &steps];
        let pid = running.pid.map(|pid| pid.to_string());
        if let Some(pid) = &pid {
            words.extend(["--server-pid", pid]);
        }
        Sample::parse(&self.client(&words, running, LIMIT)?)
    }

    /// Lookups alone, and beside a reader of data that no cache holds.
    fn tail_on_disk(&mut self) -> Result<()> {
        let rows = self.tail_rows(|key| key != "tail-unlink");
        if rows.is_empty() {
            return Ok(());
        }
        let dir = self.scratch.dir("tail")?;
        let cold = dir.join("cold");
        fs::create_dir(dir.join("hot"))?;
        backing::write_file(&cold, COLD_MIB)?;
        for repetition in 0..self.options.common.repeat {
            for at in self.turns(repetition) {
                let subject = &self.subjects[at];
                for row in &rows {
                    let sample =
                        subject.start(&dir, self.scratch, Inodes::Default).and_then(|running| {
                            let beside = match row.key.as_str() {
                                "tail-cold" => vec![
                                    "--cold".to_owned(),
                                    text(&running.root.join("cold")),
                                    "--cold-native".to_owned(),
                                    text(&cold),
                                ],
                                _ => Vec::new(),
                            };
                            self.tail(&beside, self.options.seconds, &running)
                        });
                    self.record(row, subject, sample);
                }
            }
        }
        Ok(fs::remove_dir_all(dir)?)
    }

    /// Lookups beside the unlink of a large file on tmpfs, which frees page by page.
    fn tail_beside_unlink(&mut self) -> Result<()> {
        let rows = self.tail_rows(|key| key == "tail-unlink");
        let Some(row) = rows.first() else {
            return Ok(());
        };
        for repetition in 0..self.options.common.repeat {
            for at in self.turns(repetition) {
                let subject = &self.subjects[at];
                let mount = Mount::tmpfs(self.scratch)?;
                fs::create_dir(mount.path.join("hot"))?;
                for number in 0..SLOW_UNLINKS {
                    backing::write_file(
                        &mount.path.join(format!("large{number}")),
                        self.options.unlink_mib,
                    )?;
                }
                let sample =
                    subject.start(&mount.path, self.scratch, Inodes::Default).and_then(|running| {
                        let large = |number| text(&running.root.join(format!("large{number}")));
                        let files: Vec<String> = (0..SLOW_UNLINKS).map(large).collect();
                        self.tail(
                            &["--unlink".to_owned(), files.join(",")],
                            UNLINK_LIMIT_SECONDS,
                            &running,
                        )
                    });
                self.record(row, subject, sample);
            }
        }
        Ok(())
    }

    fn tail(&self, beside: &[String], seconds: u64, running: &Running) -> Result<Sample> {
        let (dir, seconds) = (text(&running.root.join("hot")), seconds.to_string());
        let mut words = vec!["tail", "--dir", &dir, "--seconds", &seconds];
        words.extend(beside.iter().map(String::as_str));
        find(&Sample::parse(&self.client(&words, running, LIMIT)?)?, "tail")
    }

    /// Measured once: nothing here depends on who runs beside.
    fn memory(&mut self) -> Result<()> {
        let rows = self.rows_of(Group::Memory);
        if rows.is_empty() {
            return Ok(());
        }
        let mount = Mount::tmpfs(self.scratch)?;
        if rows.iter().any(|row| row.key == "rss-inode") {
            load::make_tree(&mount.path, self.options.inodes)
                .context("cannot make the files to look up")?;
        }
        for subject in self.subjects.iter().filter(|subject| !subject.is_native()) {
            let running = subject.start(&mount.path, self.scratch, Inodes::Handles)?;
            // Let it finish what it does after the mount.
            thread::sleep(Duration::from_secs(1));
            let idle = resident(&running)?;
            for row in &rows {
                let sample = match row.key.as_str() {
                    "rss-idle" => Ok(amount(idle / f64::from(1 << 20))),
                    _ => self.bytes_an_inode(&running, idle),
                };
                self.record(row, subject, sample);
            }
        }
        Ok(())
    }

    fn bytes_an_inode(&self, running: &Running, idle: f64) -> Result<Sample> {
        let (dir, files) = (text(&running.root), self.options.inodes.to_string());
        let output =
            self.client(&["walk", "--dir", &dir, "--files", &files], running, WALK_LIMIT)?;
        let looked_up = find(&Sample::parse(&output)?, "walk")?.operations;
        Ok(amount((resident(running)? - idle) / looked_up))
    }

    /// Runs a load of this program on a subject.
    fn client(&self, words: &[&str], running: &Running, limit: Duration) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.arg("load").args(words);
        client::run(&mut command, running.pidfd.as_ref(), limit)
    }

    fn record(&mut self, row: &Row, subject: &Subject, sample: Result<Sample>) {
        self.results.record(row, &subject.name, sample, self.scratch);
    }

    /// The subjects' order in this repetition.
    fn turns(&self, repetition: usize) -> impl Iterator<Item = usize> + use<> {
        let count = self.subjects.len();
        (0..count).map(move |turn| (turn + repetition) % count)
    }

    fn rows_of(&self, group: Group) -> Vec<&'a Row> {
        self.rows.iter().filter(|row| row.group == group).collect()
    }

    fn tail_rows(&self, wanted: impl Fn(&str) -> bool) -> Vec<&'a Row> {
        self.rows_of(Group::Tail).into_iter().filter(|row| wanted(&row.key)).collect()
    }
}

/// The step of a small-file row: its name without the backing.
fn step_of(row: &Row) -> &str {
    row.key.split_once('-').map_or(&row.key, |(step, _)| step)
}

fn find(samples: &[(String, Sample)], step: &str) -> Result<Sample> {
    match samples.iter().find(|(name, _)| name == step) {
        Some((_, sample)) => Ok(sample.clone()),
        None => bail!("the load did not report {step}"),
    }
}

fn resident(running: &Running) -> Result<f64> {
    let pid = running.pid.context("the native directory has no server")?;
    Ok(process::rss(pid)? as f64)
}

/// A measurement that is no rate.
fn amount(value: f64) -> Sample {
    Sample { value, operations: 0.0, cpu_seconds: None }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
