//! Sets up the log: JSON or text, one event a line on standard error, with the journal's levels under systemd.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, format};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{Log, LogFormat};

/// Starts logging; does nothing if the process logs already.
pub fn init(config: Log) {
    // systemd tells in this variable that standard error is the journal's (systemd.exec(5)).
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    // A line that nobody takes is lost: to complain of that where it could not be written would be a panic, and the end
    // of a session or of the drain.
    let builder = tracing_subscriber::fmt()
        .with_max_level(config.level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .log_internal_errors(false);
    // The first one stays: another in the same process is a test's.
    let _ = match config.format {
        LogFormat::Json => {
            let inner = format().json().flatten_event(true).with_current_span(false).with_span_list(false);
            builder.json().event_format(Prefixed { inner: inner.with_target(false), journal }).try_init()
        }
        LogFormat::Text => builder.event_format(Prefixed { inner: format().with_target(false), journal }).try_init(),
    };
}

/// Puts the journal's level before each line (sd-daemon(3)).
struct Prefixed<F> {
    inner: F,
    journal: bool,
}

impl<S, N, F> FormatEvent<S, N> for Prefixed<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if self.journal {
            writer.write_str(journal_level(*event.metadata().level()))?;
        }
        self.inner.format_event(context, writer, event)
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
