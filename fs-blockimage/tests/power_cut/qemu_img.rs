//! What QEMU's own tool makes, and says, of images.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

/// Makes an image at `path` that reads as `content`, with holes where that has zeroes.
pub(crate) fn create(path: &Path, options: &str, content: &[u8], compressed: bool) {
    let source = path.with_extension("raw");
    fs::write(&source, content).unwrap();
    let mut convert = qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "-o", options]);
    convert.args(compressed.then_some("-c"));
    run(convert.arg(&source).arg(path));
    fs::remove_file(source).unwrap();
}

/// Makes an image of `len` bytes at `path` over the raw image `backing`.
pub(crate) fn create_over(backing: &Path, path: &Path, options: &str, len: usize) {
    let mut create = qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-o", options]);
    run(create.arg("-b").arg(backing).arg(path).arg(len.to_string()));
}

/// Takes an internal snapshot.
pub(crate) fn snapshot(path: &Path) {
    run(qemu_img(&["snapshot", "-c", "snapshot"]).arg(path));
}

/// Looks for what is wrong in an image, and returns how many clusters it leaks, which is not.
///
/// # Errors
/// What is wrong, in the words of QEMU.
pub(crate) fn check(path: &Path) -> Result<u64, String> {
    let output = output(qemu_img(&["check", "--output=json", "-f", "qcow2"]).arg(path));
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(0) => Ok(0),
        // It leaks, and that is all.
        Some(3) => Ok(leaks(&said)),
        _ => Err(format!("qemu-img check: {}", in_words(&output))),
    }
}

fn leaks(report: &str) -> u64 {
    let after = report.split("\"leaks\":").nth(1).unwrap_or_else(|| panic!("{report}"));
    let number = after.split([',', '}']).next().unwrap().trim();
    number.parse().unwrap_or_else(|_| panic!("{report}"))
}

/// What an image reads as; with the name of a snapshot, what that does.
///
/// # Errors
/// Why it cannot be read, in the words of QEMU.
pub(crate) fn read(path: &Path, snapshot: Option<&str>) -> Result<Vec<u8>, String> {
    let raw = path.with_extension("raw");
    let mut convert = qemu_img(&["convert", "-f", "qcow2", "-O", "raw"]);
    if let Some(name) = snapshot {
        convert.args(["-l", name]);
    }
    let output = output(convert.arg(path).arg(&raw));
    if !output.status.success() {
        return Err(format!("qemu-img convert: {}", in_words(&output)));
    }
    let content = fs::read(&raw).unwrap();
    fs::remove_file(raw).unwrap();
    Ok(content)
}

fn qemu_img(args: &[&str]) -> Command {
    let mut command = Command::new("qemu-img");
    command.args(args);
    command
}

fn run(command: &mut Command) {
    let output = output(command);
    assert!(output.status.success(), "{command:?}: {}", in_words(&output));
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("qemu-img (qemu-utils) is needed: {error}"))
}

fn in_words(output: &Output) -> String {
    let text = [&output.stderr[..], &output.stdout].concat();
    format!("{}: {}", output.status, String::from_utf8_lossy(&text).trim())
}
