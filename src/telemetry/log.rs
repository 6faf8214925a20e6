//! Sets up the log: JSON or text on standard error, one event per line, with the journal's levels under systemd.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter, format};
use tracing_subscriber::registry::LookupSpan;

use super::escape::{Escaping, Form};
use crate::config::{LogConfig, LogFormat};

/// Lines that may be queued for writing: about 5 MB. A log that is not read must not block the sessions, so further
/// lines are lost.
const QUEUE_LINES: usize = 8192;

/// Counts the lines that the log of the process has lost.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts logging, unless the process logs already. Lines are written until the guard is dropped.
#[must_use = "the log ends when the guard is dropped"]
pub fn init(config: LogConfig) -> WorkerGuard {
    let queue = NonBlockingBuilder::default().buffered_lines_limit(QUEUE_LINES).lossy(true).thread_name("log");
    let (writer, guard) = queue.finish(std::io::stderr());
    // The first log and its counter stay. Only tests set another one in the same process.
    DROPPED.get_or_init(|| writer.error_counter());
    let _ = tracing::dispatcher::set_global_default(subscriber(config, writer, is_journal()));
    guard
}

/// Returns the number of lines that the log of the process has lost because standard error is not read fast enough.
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

fn subscriber<W>(config: LogConfig, writer: W, journal: bool) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A line that cannot be written is lost. Reporting that on standard error, which may be broken as well, could panic
    // and end a session or the drain.
    let builder = tracing_subscriber::fmt()
        .with_max_level(config.level)
        .with_writer(writer)
        .with_ansi(false)
        .log_internal_errors(false);
    match config.format {
        LogFormat::Json => {
            let inner = format().json().flatten_event(true).with_current_span(false).with_span_list(false);
            let inner = inner.with_target(false);
            builder.json().event_format(LineFormat { inner, form: Form::Json, journal }).into()
        }
        LogFormat::Text => {
            let inner = format().with_target(false);
            builder.event_format(LineFormat { inner, form: Form::Text, journal }).into()
        }
    }
}

/// Returns the prefix for a line of this level that is written to standard error without the log.
pub fn stderr_prefix(level: Level) -> &'static str {
    if is_journal() { journal_level(level) } else { "" }
}

/// Whether standard error is connected to the journal. systemd puts the device and inode of that stream into
/// `JOURNAL_STREAM`, which child processes inherit even if their standard error is another stream (systemd.exec(5)).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let own = std::io::stderr().as_fd().try_clone_to_owned().and_then(|own| File::from(own).metadata());
    own.is_ok_and(|own| stream == format!("{}:{}", own.dev(), own.ino()))
}

/// Escapes each line and prefixes it with the journal's level (sd-daemon(3)).
struct LineFormat<F> {
    inner: F,
    form: Form,
    journal: bool,
}

impl<S, N, F> FormatEvent<S, N> for LineFormat<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if self.journal {
            writer.write_str(journal_level(*event.metadata().level()))?;
        }
        let mut line = Escaping::new(writer, self.form);
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        line.finish()
    }
}

fn journal_level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

#[cfg(test)]
pub(super) use tests::logged;

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;
    use crate::telemetry::escape::is_unsafe;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Sink {
        type Writer = Self;
        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// Returns the lines that `work` logs.
    pub(in crate::telemetry) fn logged(format: LogFormat, work: impl Fn()) -> Vec<String> {
        let sink = Sink::default();
        let config = LogConfig { format, ..crate::telemetry::test_config() };
        tracing::dispatcher::with_default(&subscriber(config, sink.clone(), false), work);
        let bytes = std::mem::take(&mut *sink.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().split_inclusive('\n').map(str::to_owned).collect()
    }

    /// Covers every character of the basic plane and the tags, in every position that a text can have in a line.
    #[test]
    fn no_unsafe_character_is_logged_unescaped() {
        let all: Vec<char> = (0..=0xffff).chain(0xe0000..=0xe007f).filter_map(char::from_u32).collect();
        for chunk in all.chunks(64) {
            let text: String = chunk.iter().collect();
            let work = || tracing::info!(field = text.as_str(), display = %text, debug = ?text, "{text}");
            for format in [LogFormat::Json, LogFormat::Text] {
                let lines = logged(format, work);
                let [line] = lines.as_slice() else { panic!("{format:?}: one line for {:?}: {lines:?}", chunk[0]) };
                let inner = line.strip_suffix('\n').expect("a line ends with a line feed");
                let raw = inner.chars().find(|c| is_unsafe(*c));
                assert_eq!(raw, None, "{format:?}: {line:?}");
            }
            let event: Value = serde_json::from_str(&logged(LogFormat::Json, work)[0]).expect("valid JSON");
            for name in ["field", "display", "message"] {
                assert_eq!(event[name], text, "{name}: the JSON value is the original text");
            }
        }
    }

    /// Lists the characters that must be escaped, independently of the table in `is_unsafe`.
    #[test]
    fn terminal_and_bidirectional_controls_are_unsafe() {
        let controls = (0..0x20).chain(0x7f..0xa0);
        let bidirectional = [0x61c, 0x200e, 0x200f].into_iter().chain(0x202a..=0x202e).chain(0x2066..=0x2069);
        for number in controls.chain(bidirectional).chain([0x2028, 0x2029, 0xfeff]) {
            assert!(is_unsafe(char::from_u32(number).unwrap()), "U+{number:04X}");
        }
        assert!(!"aZ ~\u{a0}éäßłשلको漢字🙂\u{301}".chars().any(is_unsafe));
    }
}
