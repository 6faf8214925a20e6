//! Sets up the log: JSON or text on standard error, one event per line, with the journal's levels under systemd.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{self as lines, FmtContext, MakeWriter, format};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;

use super::escape::{Escaping, Form};
use crate::config::{LogConfig, LogFormat};

/// Lines that may be queued for writing: about 5 MB. A log that is not read must not block the sessions, so further
/// lines are lost.
const QUEUE_LINES: usize = 8192;

/// The start of the targets of the DNS client's events: it logs every question. The failures of look-ups are logged
/// where they matter.
const OF_DNS_CLIENT: &str = "hickory";

/// The handle of the log that this process writes.
static HANDLE: OnceLock<LogHandle> = OnceLock::new();

/// Changes and observes the log while the process runs.
#[derive(Debug)]
pub struct LogHandle {
    level: LevelHandle,
    dropped: ErrorCounter,
}

type LevelHandle = reload::Handle<LevelFilter, Registry>;

impl LogHandle {
    /// Logs lines of this level and of more severe ones from now on. [`LevelFilter::current`] follows.
    pub fn set_level(&self, level: Level) {
        // This fails only for a log that has ended, which writes no lines.
        let _ = self.level.reload(level);
    }

    /// Returns the least severe level that is logged.
    pub fn level(&self) -> Level {
        let level = self.level.clone_current().unwrap_or_else(LevelFilter::current);
        level.into_level().unwrap_or(Level::ERROR)
    }

    /// Returns the number of lines that were dropped because the queue for writing was full.
    pub fn dropped_lines(&self) -> u64 {
        u64::try_from(self.dropped.dropped_lines()).unwrap_or(u64::MAX)
    }
}

/// Starts logging, unless the process logs already. Lines are written until the guard is dropped.
#[must_use = "the log ends when the guard is dropped"]
pub fn init(config: LogConfig) -> WorkerGuard {
    let (writer, guard) = queue(std::io::stderr(), QUEUE_LINES);
    let dropped = writer.error_counter();
    let (dispatch, level) = subscriber(config, writer, is_journal());
    // The first dispatcher stays. Only tests set another one in the same process.
    if tracing::dispatcher::set_global_default(dispatch).is_ok() {
        let _ = HANDLE.set(LogHandle { level, dropped });
    }
    guard
}

/// Returns the handle of the log; `None` before [`init`].
pub fn handle() -> Option<&'static LogHandle> {
    HANDLE.get()
}

/// Returns the number of lines that were dropped because the queue for writing was full; 0 before [`init`].
pub fn dropped_lines() -> u64 {
    handle().map_or(0, LogHandle::dropped_lines)
}

/// Starts the thread that writes the lines, behind a queue. Lines beyond its limit are dropped and counted.
fn queue(output: impl io::Write + Send + 'static, limit: usize) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().buffered_lines_limit(limit).lossy(true).thread_name("log").finish(output)
}

/// Returns the subscriber that writes lines, and the handle of its level. The level is the bottom layer, so that its
/// hint is that of the whole subscriber.
fn subscriber<W>(config: LogConfig, writer: W, journal: bool) -> (Dispatch, LevelHandle)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (level, handle) = reload::Layer::new(LevelFilter::from_level(config.level));
    let own = filter_fn(|metadata| !metadata.target().starts_with(OF_DNS_CLIENT));
    let registry = tracing_subscriber::registry().with(level).with(own);
    // A line that cannot be written is lost. Reporting that on standard error, which may be broken as well, could panic
    // and end a session or the drain.
    let layer = lines::layer().with_writer(writer).with_ansi(false).log_internal_errors(false);
    let dispatch = match config.format {
        LogFormat::Json => {
            let inner = format().json().flatten_event(true).with_current_span(false).with_span_list(false);
            let inner = inner.with_target(false);
            registry.with(layer.json().event_format(LineFormat { inner, form: Form::Json, journal })).into()
        }
        LogFormat::Text => {
            let inner = format().with_target(false);
            registry.with(layer.event_format(LineFormat { inner, form: Form::Text, journal })).into()
        }
    };
    (dispatch, handle)
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
    use std::sync::{Arc, Mutex, mpsc};

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

    impl Sink {
        fn take_lines(&self) -> Vec<String> {
            let bytes = std::mem::take(&mut *self.0.lock().unwrap());
            String::from_utf8(bytes).unwrap().split_inclusive('\n').map(str::to_owned).collect()
        }
    }

    /// Returns the lines that `work` logs.
    pub(in crate::telemetry) fn logged(format: LogFormat, work: impl Fn()) -> Vec<String> {
        let sink = Sink::default();
        let config = LogConfig { format, ..crate::telemetry::test_config() };
        tracing::dispatcher::with_default(&subscriber(config, sink.clone(), false).0, work);
        sink.take_lines()
    }

    /// The level stays at most INFO, since `LevelFilter::current` is the maximum over the logs of all tests.
    #[test]
    fn the_level_of_a_running_log_can_be_changed() {
        let sink = Sink::default();
        let config = LogConfig { level: Level::ERROR, ..crate::telemetry::test_config() };
        let (dispatch, level) = subscriber(config, sink.clone(), false);
        let handle = LogHandle { level, dropped: queue(io::sink(), 1).0.error_counter() };
        tracing::dispatcher::with_default(&dispatch, || {
            // The same call sites, whose interest `tracing` has cached.
            let lines = || {
                tracing::warn!("a warning");
                tracing::info!("an information");
                sink.take_lines().len()
            };
            assert_eq!((handle.level(), lines()), (Level::ERROR, 0));
            for (level, count) in [(Level::INFO, 2), (Level::WARN, 1), (Level::INFO, 2), (Level::ERROR, 0)] {
                handle.set_level(level);
                assert_eq!((handle.level(), lines()), (level, count));
            }
        });
    }

    /// Blocks until the other end of the channel is dropped.
    struct Blocked(mpsc::Receiver<()>);

    impl io::Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_beyond_the_queue_are_dropped_and_counted() {
        let (unblock, blocked) = mpsc::channel();
        let (writer, _guard) = queue(Blocked(blocked), 2);
        let dropped = writer.error_counter();
        let (dispatch, level) = subscriber(crate::telemetry::test_config(), writer, false);
        let handle = LogHandle { level, dropped };
        assert_eq!(handle.dropped_lines(), 0);
        tracing::dispatcher::with_default(&dispatch, || (0..10).for_each(|_| tracing::info!("a line")));
        // Two lines are queued, and one may be being written.
        assert!((7..=8).contains(&handle.dropped_lines()), "{}", handle.dropped_lines());
        drop(unblock);
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
