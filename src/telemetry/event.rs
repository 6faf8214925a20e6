//! Writes an event whose level is known only when it is written.

/// Writes an event whose level is known only now.
macro_rules! event {
    ($level:expr, $($arguments:tt)*) => {
        match $level {
            tracing::Level::ERROR => tracing::error!($($arguments)*),
            tracing::Level::WARN => tracing::warn!($($arguments)*),
            tracing::Level::INFO => tracing::info!($($arguments)*),
            tracing::Level::DEBUG => tracing::debug!($($arguments)*),
            tracing::Level::TRACE => tracing::trace!($($arguments)*),
        }
    };
}
pub(super) use event;
