//! The level of the log of a process, which can be changed while it runs. It is global, so this binary has one test.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

use tollgate::config::{LogConfig, LogFormat, Shown};
use tollgate::telemetry::log;
use tracing::Level;
use tracing::level_filters::LevelFilter;

/// Code that prepares a line only if its level is logged asks `LevelFilter::current`.
#[test]
fn the_current_level_of_the_process_follows_its_log() {
    assert!(log::handle().is_none());
    assert_eq!(log::dropped_lines(), 0);
    let config = LogConfig {
        format: LogFormat::Json,
        level: Level::ERROR,
        session_start: Level::DEBUG,
        subject: Shown::Plain,
        address: Shown::Plain,
        slow_upgrade: None,
    };
    let _log = log::init(config);
    let handle = log::handle().expect("the log has started");
    assert_eq!(handle.level(), Level::ERROR);
    for level in [Level::TRACE, Level::WARN, Level::DEBUG, Level::INFO, Level::ERROR] {
        handle.set_level(level);
        assert_eq!(handle.level(), level);
        assert_eq!(LevelFilter::current(), level);
        for other in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
            let enabled = match other {
                Level::ERROR => tracing::enabled!(Level::ERROR),
                Level::WARN => tracing::enabled!(Level::WARN),
                Level::INFO => tracing::enabled!(Level::INFO),
                Level::DEBUG => tracing::enabled!(Level::DEBUG),
                Level::TRACE => tracing::enabled!(Level::TRACE),
            };
            assert_eq!(enabled, other <= level, "{other} at {level}");
        }
    }
    assert_eq!(log::dropped_lines(), 0);
}
