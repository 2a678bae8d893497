//! A server's command line, with places to be filled in when it starts.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// A word each, with places such as `{dir}`.
pub(crate) struct ServerCommand {
    words: Vec<String>,
}

impl ServerCommand {
    /// Refuses a command without one of `places`.
    pub(crate) fn new(server: &str, command: &str, places: &[&str]) -> Result<Self> {
        if let Some(missing) = places.iter().find(|place| !command.contains(**place)) {
            anyhow::bail!("the command of {server} must hold {missing}: {command}");
        }
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        ensure!(!words.is_empty(), "the command of {server} is empty");
        Ok(ServerCommand { words })
    }

    /// The command as it goes below the table: without where the program lies.
    pub(crate) fn describe(&self) -> String {
        let mut words = self.words.clone();
        if let Some(name) = Path::new(&words[0]).file_name() {
            words[0] = name.to_string_lossy().into_owned();
        }
        words.join(" ")
    }

    /// The words to start it with: each place becomes its value.
    pub(crate) fn fill(&self, values: &[(&str, &str)]) -> Vec<String> {
        let fill = |word: &String| {
            values.iter().fold(word.clone(), |word, (place, value)| word.replace(place, value))
        };
        self.words.iter().map(fill).collect()
    }
}

/// A peer's name and command, given as `name=command`.
pub(crate) fn parse_peer(text: &str) -> Result<(&str, &str)> {
    text.split_once('=').with_context(|| format!("a peer is name=command, not {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_wherever_they_stand() {
        let command = ServerCommand::new("a", "prog file={dir},x {mnt}", &["{dir}"]).unwrap();
        assert_eq!(command.fill(&[("{dir}", "/d"), ("{mnt}", "/m")]), ["prog", "file=/d,x", "/m"]);
    }

    #[test]
    fn a_command_without_a_place_is_refused() {
        assert!(ServerCommand::new("a", "prog {mnt}", &["{dir}", "{mnt}"]).is_err());
    }

    #[test]
    fn where_the_program_lies_is_not_told() {
        let command = ServerCommand::new("a", "/some/where/prog {mnt}", &[]).unwrap();
        assert_eq!(command.describe(), "prog {mnt}");
    }
}
