//! Disk images as QEMU makes them: served as a file, compared, written and checked by QEMU's own tools.

mod content;
mod disk;
mod export;
mod kinds;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use self::content::Mirror;
use self::export::Export;
use self::kinds::{KINDS, Kind, Made};
use super::fio;
use crate::lab::Lab;
use crate::program;
use crate::tally::Tally;

/// Twenty times what the slowest program takes.
const LIMIT: Duration = Duration::from_secs(120);

/// How an image is served: most kinds in one way, and with `--full` in all.
const WAYS: [&[&str]; 4] = [
    &["--io-engine", "uring"],
    &["--io-engine", "threads"],
    &["--io-engine", "uring", "--host-cache", "direct"],
    &["--io-engine", "threads", "--host-cache", "direct"],
];

pub(crate) fn run(lab: &Lab, tally: &mut Tally) -> Result<()> {
    for (at, kind) in KINDS.iter().enumerate() {
        let is_chosen = |number| lab.full || at == 0 || number == at % WAYS.len();
        for (number, way) in WAYS.iter().enumerate() {
            if !is_chosen(number) || !kind.can_be_served(way) {
                continue;
            }
            let start = Instant::now();
            let name = format!("[{}, {}] ", kind.name, words(way));
            tally.count(&(name.clone() + "read"), reads(lab, kind, way));
            tally.count(&(name.clone() + "written"), writes(lab, kind, way));
            println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
        }
    }
    disk::run(lab, tally)
}

/// `uring direct`
fn words(way: &[&str]) -> String {
    let values: Vec<_> = way.iter().copied().filter(|word| !word.starts_with('-')).collect();
    values.join(" ")
}

/// The export shows what QEMU says is in the image, and the image stays as it was.
fn reads(lab: &Lab, kind: &Kind, way: &[&str]) -> Result<()> {
    let image = kind.make(lab)?;
    let raw = image.as_raw("raw")?;
    let before = sums(&image)?;
    let export = Export::of(lab, &image, way)?;
    same(("raw", export.file()), ("raw", &raw))?;
    export.stop()?;
    ensure!(sums(&image)? == before, "reading changed the image");
    Ok(())
}

/// What is written through the export is in the image, and nothing else changed there.
fn writes(lab: &Lab, kind: &Kind, way: &[&str]) -> Result<()> {
    let image = kind.make(lab)?;
    let raw = image.as_raw("raw")?;
    let export = Export::of(lab, &image, &[way, &["--writable"]].concat())?;
    Mirror::new(export.file(), &raw)?.run(if lab.full { 4000 } else { 400 })?;
    same(("raw", export.file()), ("raw", &raw))?;
    export.stop()?;
    image.check()?;
    same((image.format, &image.path), ("raw", &raw))?;

    let export = Export::of(lab, &image, &[way, &["--writable"]].concat())?;
    verified_by_fio(lab, export.file())?;
    std::fs::copy(export.file(), &raw)?;
    export.stop()?;
    image.check()?;
    same((image.format, &image.path), ("raw", &raw))
}

/// Many writes in flight at once, each block read back.
fn verified_by_fio(lab: &Lab, file: &Path) -> Result<()> {
    let size = if lab.full { "--io_size=256m" } else { "--io_size=12m" };
    let file = format!("--filename={}", file.display());
    let mut command = Command::new("fio");
    command.args(fio::EVERY_JOB).args([size, "--rw=randwrite", "--ioengine=libaio"]);
    command.args([
        "--verify_state_save=0",
        "--direct=1",
        "--iodepth=16",
        "--size=100%",
        "--allow_file_create=0",
        &file,
    ]);
    program::check(&mut command, LIMIT)?;
    Ok(())
}

/// Two images have the same content.
fn same(left: (&str, &Path), right: (&str, &Path)) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["compare", "-q", "-f", left.0, "-F", right.0]).arg(left.1).arg(right.1);
    program::check(&mut command, LIMIT)?;
    Ok(())
}

/// What all files of an image have.
fn sums(image: &Made) -> Result<String> {
    let files: Vec<PathBuf> = image.files()?;
    program::check(Command::new("sha256sum").args(files), LIMIT)
}
