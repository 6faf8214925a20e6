//! Logs an event whose level is known only at run time.

/// Logs an event at a computed level. The macros of `tracing` require a constant one.
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
