//! What operators see of what happens.

mod event;
pub mod escape;
pub mod identity;
pub mod log;
pub mod request;
pub mod rejections;
pub mod sessions;

/// How much of what a client sent is shown in a line.
const TEXT_MAX_BYTES: usize = 256;

fn truncate(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_MAX_BYTES)).unwrap_or(text)
}

/// The defaults of the configuration.
#[cfg(test)]
pub(crate) fn test_config() -> crate::config::LogConfig {
    crate::config::LogConfig {
        format: crate::config::LogFormat::Json,
        level: tracing::Level::INFO,
        session_start: tracing::Level::DEBUG,
        subject: crate::config::Shown::Plain,
        address: crate::config::Shown::Plain,
    }
}
