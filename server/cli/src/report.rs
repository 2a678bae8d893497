//! How errors are told: in one line.

use std::{fmt, io::Write, process::ExitCode};

use clap::error::ErrorKind;

use crate::printable::Printable;

/// The command line was wrong.
const USAGE: u8 = 2;

/// Tells what is wrong with a command line, or what was asked about it.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // A reader that went away has read what it wanted.
            let _ = error.print();
        }
        _ => say(format_args!("fsrv: {}; see `fsrv serve --help`", first_paragraph(error))),
    }
    ExitCode::from(if error.use_stderr() { USAGE } else { 0 })
}

/// Tells why `program` failed.
pub(crate) fn failure(program: &str, error: &anyhow::Error) {
    let error = without_numbers(&format!("{error:#}"));
    say(format_args!("{program}: {error}"));
}

/// Errors of the system are known by their text.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |line, part| line + part.split_once(')').map_or(part, |(_, rest)| rest))
}

/// Writes a line to standard error, which may be closed. Control characters are escaped.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{}", Printable(line));
}

/// What clap says before its hints, in one line.
pub(crate) fn first_paragraph(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = paragraph.split_whitespace().collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_without_its_number() {
        let line = without_numbers("cannot open x: Not found (os error 2); create it (now)");
        assert_eq!(line, "cannot open x: Not found; create it (now)");
    }
}
