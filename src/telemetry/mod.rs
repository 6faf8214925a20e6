//! The log of sessions and rejections, and the metrics.

mod event;
pub mod phases;
pub mod escape;
pub mod identity;
pub mod log;
pub mod line_quota;
pub mod handovers;
pub mod trace_context;
pub mod metrics;
pub mod request;
pub mod rejections;
pub mod sessions;
pub mod requests;
pub mod events;
pub mod history;

/// Limit on the host, path, origin and detail of a log line.
const TEXT_MAX_BYTES: usize = 256;

fn truncate(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_MAX_BYTES)).unwrap_or(text)
}

/// Returns the default log configuration.
#[cfg(test)]
pub(crate) fn test_config() -> crate::config::LogConfig {
    crate::config::LogConfig {
        format: crate::config::LogFormat::Json,
        level: tracing::Level::INFO,
        session_start: tracing::Level::DEBUG,
        subject: crate::config::Shown::Plain,
        address: crate::config::Shown::Plain,
        slow_upgrade: None,
    }
}
