//! The tables, in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;

use crate::backing::Scratch;
use crate::load::Sample;
use crate::row::{Row, Unit};

/// Of why a subject failed: enough to know, short enough for a list.
const REASON_CHARACTERS: usize = 200;

/// Everything that one setting of the machine gave.
#[derive(Default)]
pub(crate) struct Results {
    cells: BTreeMap<(String, String), Vec<Sample>>,
    failures: BTreeMap<(String, String), String>,
}

impl Results {
    /// Notes one measurement, or why there is none, and tells it.
    pub(crate) fn record(
        &mut self,
        row: &Row,
        subject: &str,
        sample: Result<Sample>,
        scratch: &Scratch,
    ) {
        match sample {
            Ok(sample) => {
                eprintln!("{}: {subject} {:.1} {}", row.key, sample.value, row.unit.name());
                self.add(&row.key, subject, sample);
            }
            Err(error) => {
                // Without the place of this run's directory.
                let place = scratch.path().to_string_lossy();
                let reason = format!("{error:#}").replace(&*place, "");
                let reason: String = reason.chars().take(REASON_CHARACTERS).collect();
                eprintln!("{}: {subject} failed: {reason}", row.key);
                self.fail(&row.key, subject, reason);
            }
        }
    }

    fn add(&mut self, row: &str, subject: &str, sample: Sample) {
        self.cells.entry((row.to_owned(), subject.to_owned())).or_default().push(sample);
    }

    /// Keeps the first reason.
    fn fail(&mut self, row: &str, subject: &str, reason: String) {
        self.failures.entry((row.to_owned(), subject.to_owned())).or_insert(reason);
    }

    pub(crate) fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    fn samples(&self, row: &Row, subject: &str) -> &[Sample] {
        self.cells.get(&(row.key.clone(), subject.to_owned())).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn median(&self, row: &Row, subject: &str) -> Option<f64> {
        let mut values: Vec<f64> =
            self.samples(row, subject).iter().map(|sample| sample.value).collect();
        values.sort_by(f64::total_cmp);
        let upper = *values.get(values.len() / 2)?;
        let lower = values[(values.len() - 1) / 2];
        Some(f64::midpoint(lower, upper))
    }

    /// Half the way from the least to the greatest, as a part of the median.
    fn spread(&self, row: &Row, subject: &str) -> Option<f64> {
        let median = self.median(row, subject)?;
        let values = self.samples(row, subject).iter().map(|sample| sample.value);
        let (least, greatest) = values.fold((f64::MAX, f64::MIN), |(least, greatest), value| {
            (least.min(value), greatest.max(value))
        });
        Some((greatest - least) / 2.0 / median)
    }

    /// Microseconds of the server's processor time an operation, over all repetitions: one is too short for the clock.
    fn cpu_microseconds(&self, row: &Row, subject: &str) -> Option<f64> {
        let samples = self.samples(row, subject);
        let seconds: Option<f64> = samples.iter().map(|sample| sample.cpu_seconds).sum();
        let operations: f64 = samples.iter().map(|sample| sample.operations).sum();
        seconds.filter(|_| operations > 0.0).map(|seconds| seconds * 1e6 / operations)
    }
}

/// A column that compares a subject with the best of others.
pub(crate) struct Ratio<'a> {
    pub(crate) title: &'a str,
    pub(crate) of: &'a str,
    pub(crate) to: &'a [&'a str],
}

/// What one setting of the machine gave: measurements, processor time, failures. Nothing if it has no rows.
pub(crate) fn section(
    setting: Option<u32>,
    results: &Results,
    rows: &[Row],
    subjects: &[&str],
    ratios: &[Ratio<'_>],
) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let title = match setting {
        Some(0) => "Halt polling 0".to_owned(),
        Some(nanoseconds) => format!("Halt polling {nanoseconds}"),
        None => "Halt polling not to be set here".to_owned(),
    };
    let mut text = format!("\n### {title}\n\n{}", measurements(results, rows, subjects, ratios));
    if let Some(cpu) = cpu(results, rows, subjects) {
        let _ = write!(text, "\n{cpu}");
    }
    let failures = failures(results);
    if !failures.is_empty() {
        let _ = write!(text, "\nFailed:\n{failures}");
    }
    text
}

/// The measurements, with the ratio to the native directory in brackets, and the other ratios in the last columns.
fn measurements(
    results: &Results,
    rows: &[Row],
    subjects: &[&str],
    ratios: &[Ratio<'_>],
) -> String {
    let compared = |ratio: &&Ratio<'_>| {
        subjects.contains(&ratio.of) && ratio.to.iter().any(|peer| subjects.contains(peer))
    };
    let ratios: Vec<&Ratio<'_>> = ratios.iter().filter(compared).collect();
    let mut heads = vec!["work", "unit"];
    heads.extend(subjects);
    heads.extend(ratios.iter().map(|ratio| ratio.title));
    let mut table = head(&heads);
    for row in rows {
        let native = results.median(row, "native");
        let mut cells = vec![row.title.clone(), row.unit.name().to_owned()];
        cells.extend(subjects.iter().map(|subject| cell(results, row, subject, native)));
        cells.extend(ratios.iter().map(|ratio| to_best(results, row, ratio).unwrap_or_default()));
        line(&mut table, &cells);
    }
    table
}

/// The servers' processor time an operation.
fn cpu(results: &Results, rows: &[Row], subjects: &[&str]) -> Option<String> {
    let servers: Vec<&str> =
        subjects.iter().copied().filter(|subject| *subject != "native").collect();
    let mut heads = vec!["server CPU, us an operation"];
    heads.extend(&servers);
    let mut table = head(&heads);
    let mut any = false;
    for row in rows {
        let times: Vec<Option<f64>> =
            servers.iter().map(|server| results.cpu_microseconds(row, server)).collect();
        if times.iter().any(Option::is_some) {
            any = true;
            let mut cells = vec![row.title.clone()];
            cells.extend(
                times.iter().map(|time| time.map_or_else(String::new, |time| format!("{time:.1}"))),
            );
            line(&mut table, &cells);
        }
    }
    any.then_some(table)
}

/// A line for each row that a subject failed.
fn failures(results: &Results) -> String {
    results.failures.iter().fold(String::new(), |mut text, ((row, subject), reason)| {
        let _ = writeln!(text, "- {subject}, {row}: {reason}");
        text
    })
}

fn cell(results: &Results, row: &Row, subject: &str, native: Option<f64>) -> String {
    let key = (row.key.clone(), subject.to_owned());
    let (Some(median), Some(spread)) = (results.median(row, subject), results.spread(row, subject))
    else {
        return if results.failures.contains_key(&key) { "failed".into() } else { "-".into() };
    };
    let mut text = number(median, row.unit);
    if results.samples(row, subject).len() > 1 {
        let _ = write!(text, " ±{:.0}%", spread * 100.0);
    }
    if let Some(native) = native.filter(|_| subject != "native") {
        let _ = write!(text, " ({:.2})", median / native);
    }
    if results.failures.contains_key(&key) {
        text.push_str(", then failed");
    }
    text
}

fn to_best(results: &Results, row: &Row, ratio: &Ratio<'_>) -> Option<String> {
    if row.peers_do_less {
        return None;
    }
    let value = results.median(row, ratio.of)?;
    let peers = ratio.to.iter().filter_map(|peer| results.median(row, peer));
    let best =
        if row.unit.more_is_better() { peers.reduce(f64::max) } else { peers.reduce(f64::min) };
    Some(format!("{:.2}", value / best?))
}

fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::PerSecond | Unit::MibPerSecond | Unit::Bytes => format!("{value:.0}"),
        Unit::Microseconds | Unit::Mib => format!("{value:.1}"),
        Unit::Calls => format!("{value:.2}"),
    }
}

pub(crate) fn head(cells: &[&str]) -> String {
    let mut table = String::new();
    line(&mut table, cells);
    table.push_str(&"|---".repeat(cells.len()));
    table.push_str("|\n");
    table
}

pub(crate) fn line<S: AsRef<str>>(table: &mut String, cells: &[S]) {
    for cell in cells {
        let _ = write!(table, "| {} ", cell.as_ref());
    }
    table.push_str("|\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row;

    fn results(values: &[(&str, f64)]) -> Results {
        let mut results = Results::default();
        for (subject, value) in values {
            let sample = Sample { value: *value, operations: 100.0, cpu_seconds: Some(0.001) };
            results.add("randread", subject, sample);
        }
        results
    }

    const RATIOS: [Ratio<'_>; 1] =
        [Ratio { title: "to best", of: "fsrv", to: &["fbrs", "bindfs"] }];

    fn randread() -> Vec<Row> {
        row::select(&["randread".to_owned()])
            .unwrap()
            .into_iter()
            .filter(|row| row.key == "randread")
            .collect()
    }

    #[test]
    fn a_cell_holds_median_spread_and_ratio_to_native() {
        let results = results(&[("native", 100.0), ("fbrs", 40.0), ("fbrs", 50.0), ("fbrs", 60.0)]);
        assert!(
            measurements(&results, &randread(), &["native", "fbrs"], &RATIOS)
                .contains("| 50 ±20% (0.50) |")
        );
    }

    #[test]
    fn fsrv_is_compared_with_the_best_peer_and_not_with_native() {
        let results =
            results(&[("native", 100.0), ("fsrv", 60.0), ("fbrs", 40.0), ("bindfs", 20.0)]);
        assert!(
            measurements(&results, &randread(), &["native", "fsrv", "fbrs", "bindfs"], &RATIOS)
                .ends_with("| 1.50 |\n")
        );
    }

    #[test]
    fn processor_time_is_a_mean_over_repetitions() {
        let results = results(&[("fbrs", 1.0), ("fbrs", 1.0)]);
        assert!(cpu(&results, &randread(), &["fbrs"]).unwrap().contains("| 10.0 |"));
    }

    #[test]
    fn a_failure_shows_in_its_cell() {
        let mut results = results(&[("native", 1.0)]);
        results.fail("randread", "fbrs", "no".into());
        assert!(
            measurements(&results, &randread(), &["native", "fbrs"], &RATIOS)
                .contains("| failed |")
        );
    }
}
