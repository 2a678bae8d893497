//! Log lines, on standard error, or to the system's log.

use std::{
    collections::HashMap,
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use syslog_tracing::{Facility, Options, Syslog};
use tracing::{Event, Level, Metadata, Subscriber, callsite::Identifier};
use tracing_subscriber::{
    filter::{FilterExt, LevelFilter},
    fmt,
    layer::{Context, Filter},
    prelude::*,
};

use crate::{
    args::{LogFormat, LogLevel},
    printable::log_line,
    report,
};

/// So many lines of one kind may come at once: clients cause most of them, and some mean harm.
const BURST: u32 = 30;

/// After a burst there is one more line of that kind each so often.
const EVERY: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sink {
    /// Standard error.
    Terminal,
    /// The system's log, by syslog(3): the journal, where there is one. It has times and levels of its own.
    System,
}

/// Logs to `sink` from now on.
pub(crate) fn start(level: LogLevel, format: LogFormat, sink: Sink) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let lines = fmt::layer().with_target(false);
    let syslog = match sink {
        Sink::Terminal => None,
        Sink::System => Syslog::new(c"fsrv", Options::LOG_PID, Facility::Daemon),
    };
    let lines = match (syslog, format) {
        (Some(syslog), LogFormat::Text) => {
            lines.without_time().with_level(false).with_ansi(false).with_writer(syslog).boxed()
        }
        (Some(syslog), LogFormat::Json) => lines.json().with_writer(syslog).boxed(),
        (None, LogFormat::Text) => {
            let lines = lines.with_ansi(std::io::stderr().is_terminal());
            lines.with_writer(move || Lines(format)).boxed()
        }
        (None, LogFormat::Json) => lines.json().with_writer(move || Lines(format)).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(level.and(Limit::new(format)))).init();
}

/// Writes lines, each of which comes as a whole, to standard error.
struct Lines(LogFormat);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(log_line(&String::from_utf8_lossy(line), self.0).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Leaves lines out where too many are of one kind, which is: from one place of the source. Whoever asks
/// for more than the usual lines gets all of these.
struct Limit {
    format: LogFormat,
    kinds: Mutex<HashMap<Identifier, Kind>>,
}

/// The lines of one kind.
struct Kind {
    /// How many may come now.
    left: u32,
    since: Instant,
    unsaid: u64,
}

impl Limit {
    fn new(format: LogFormat) -> Self {
        Self { format, kinds: Mutex::default() }
    }

    /// Says how many lines were left out.
    fn make_up(&self, unsaid: u64) {
        let what = "messages like the next one were left out";
        match self.format {
            LogFormat::Text => report::say(format_args!("{unsaid} {what}")),
            LogFormat::Json => report::say(format_args!(
                r#"{{"level":"INFO","fields":{{"message":"{unsaid} {what}"}}}}"#
            )),
        }
    }
}

impl<S: Subscriber> Filter<S> for Limit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::INFO {
            return true;
        }
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(event.metadata().callsite()).or_insert_with(Kind::new);
        let unsaid = kind.next(Instant::now());
        drop(kinds);
        match unsaid {
            None => return false,
            Some(0) => {}
            Some(unsaid) => self.make_up(unsaid),
        }
        true
    }
}

impl Kind {
    fn new() -> Self {
        Self { left: BURST, since: Instant::now(), unsaid: 0 }
    }

    /// Whether one more may come `now`, and how many before it did not.
    fn next(&mut self, now: Instant) -> Option<u64> {
        let periods = now.saturating_duration_since(self.since).as_secs() / EVERY.as_secs();
        if periods > 0 {
            self.left =
                BURST.min(self.left.saturating_add(u32::try_from(periods).unwrap_or(BURST)));
            self.since = now;
        }
        let Some(left) = self.left.checked_sub(1) else {
            self.unsaid += 1;
            return None;
        };
        self.left = left;
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_burst_there_is_one_line_a_second_that_counts_the_others() {
        let mut kind = Kind::new();
        let start = kind.since;
        for _ in 0..BURST {
            assert_eq!(kind.next(start), Some(0));
        }
        assert_eq!((kind.next(start), kind.next(start)), (None, None));
        assert_eq!(kind.next(start + EVERY), Some(2));
        assert_eq!(kind.next(start + EVERY), None);
        assert_eq!(kind.next(start + 100 * EVERY), Some(1));
    }
}
