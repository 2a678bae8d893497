//! Text that may have names of files in it, for terminals and logs: a control character in a name would end the line, or
//! command the terminal.

use std::fmt::{self, Write};

use crate::args::LogFormat;

/// Text in one line without control characters: each is written as Rust writes it in a string.
pub(crate) struct Printable<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escape(f), "{}", self.0)
    }
}

struct Escape<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|char| self.write_char(char))
    }

    fn write_char(&mut self, char: char) -> fmt::Result {
        if char.is_control() {
            write!(self.0, "{}", char.escape_default())
        } else {
            self.0.write_char(char)
        }
    }
}

/// A line of the log as it may be printed. Colours stay.
pub(crate) fn log_line(line: &str, format: LogFormat) -> String {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let mut printable = String::with_capacity(line.len() + 1);
    let mut rest = line;
    while let Some(char) = rest.chars().next() {
        let len = colour(rest).unwrap_or(char.len_utf8());
        match format {
            _ if len > char.len_utf8() || !char.is_control() => printable.push_str(&rest[..len]),
            LogFormat::Text => printable.extend(char.escape_default()),
            // In an object of JSON it is part of a string.
            LogFormat::Json => printable.push_str(&format!("\\u{:04x}", u32::from(char))),
        }
        rest = &rest[len..];
    }
    printable.push('\n');
    printable
}

/// The length of the escape sequence for a colour that `text` begins with.
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|char: char| !char.is_ascii_digit() && char != ';')?;
    parameters[end..].starts_with('m').then_some("\x1b[".len() + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_as_in_a_string() {
        let name = "a\nb\u{1b}[2Jc\u{9b}d\te\u{7f} \u{e9}\\";
        let shown = r"a\nb\u{1b}[2Jc\u{9b}d\te\u{7f} \u{e9}".replace(r"\u{e9}", "\u{e9}") + "\\";
        assert_eq!(Printable(name).to_string(), shown);
        assert_eq!(log_line(&format!("{name}\n"), LogFormat::Text), shown + "\n");
    }

    #[test]
    fn a_line_of_json_stays_one() {
        let line = "{\"message\":\"a\\nb\u{9b}\u{7f}\"}\n";
        assert_eq!(log_line(line, LogFormat::Json), "{\"message\":\"a\\nb\\u009b\\u007f\"}\n");
    }

    #[test]
    fn colours_stay_and_nothing_else_that_a_terminal_obeys() {
        let line = "\u{1b}[2m12:00\u{1b}[0m \u{1b}[1;31mx\u{1b}[0m \u{1b}]0;title\u{7} \u{1b}[5";
        let shown =
            "\u{1b}[2m12:00\u{1b}[0m \u{1b}[1;31mx\u{1b}[0m \\u{1b}]0;title\\u{7} \\u{1b}[5\n";
        assert_eq!(log_line(line, LogFormat::Text), shown);
    }
}
