//! Logs the handover of sessions to a new process: one line in each of the two processes, or the reason of a failure.

use std::fmt;
use std::time::Duration;

use tracing::Level;

use super::event::event;

/// The result of a handover.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct HandoverTotals {
    /// The number of sessions that the new process continues.
    pub moved: usize,
    /// The number of sessions that drain in the process before.
    pub drained: usize,
    /// The number of sessions that were lost.
    pub failed: usize,
    /// The longest time for which a session was not served.
    pub longest_pause: Duration,
    /// The time from the start of the new process to the end of the last move.
    pub took: Duration,
}

impl HandoverTotals {
    /// Returns the longest pause in milliseconds.
    pub fn longest_pause_ms(&self) -> u64 {
        millis(self.longest_pause)
    }

    /// Returns the duration in milliseconds.
    pub fn took_ms(&self) -> u64 {
        millis(self.took)
    }

    /// Lost sessions are a warning.
    fn level(&self) -> Level {
        if self.failed == 0 { Level::INFO } else { Level::WARN }
    }
}

/// Logs the end of a handover in the new process, with the process before.
pub fn log_taken_over(from_pid: u32, from_version: &str, totals: &HandoverTotals) {
    let HandoverTotals { moved, drained, failed, .. } = *totals;
    let (longest_pause_ms, took_ms) = (totals.longest_pause_ms(), totals.took_ms());
    event!(totals.level(), from_pid, from_version, moved, drained, failed, longest_pause_ms, took_ms, "handed over");
}

/// Logs the end of a handover in the process before, with the new process.
pub fn log_passed_on(to_pid: u32, to_version: &str, totals: &HandoverTotals) {
    let HandoverTotals { moved, drained, failed, .. } = *totals;
    let (longest_pause_ms, took_ms) = (totals.longest_pause_ms(), totals.took_ms());
    event!(totals.level(), to_pid, to_version, moved, drained, failed, longest_pause_ms, took_ms, "handed over");
}

/// Logs a failed upgrade: each line of the reason, such as the errors of a configuration, and that this process serves
/// on.
pub fn log_failure(reason: &dyn fmt::Display) {
    reason.to_string().lines().for_each(|line| tracing::error!("{line}"));
    tracing::error!("upgrade failed: this process continues");
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::LogFormat;
    use crate::telemetry::log::logged;

    fn lines(work: impl Fn()) -> Vec<Value> {
        logged(LogFormat::Json, work).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn totals(failed: usize) -> HandoverTotals {
        let (longest_pause, took) = (Duration::from_micros(12_900), Duration::from_millis(1500));
        HandoverTotals { moved: 40, drained: 2, failed, longest_pause, took }
    }

    #[test]
    fn each_process_logs_the_totals_and_the_other_process() {
        let logged = lines(|| {
            log_taken_over(7, "0.1.0", &totals(0));
            log_passed_on(8, "0.2.0", &totals(0));
        });
        for (line, [pid, version]) in logged.iter().zip([["from_pid", "from_version"], ["to_pid", "to_version"]]) {
            assert_eq!((&line["level"], &line["message"]), (&json!("INFO"), &json!("handed over")));
            let counts = ["moved", "drained", "failed", "longest_pause_ms", "took_ms"].map(|name| line[name].as_u64());
            assert_eq!(counts, [Some(40), Some(2), Some(0), Some(12), Some(1500)], "{line}");
            assert!(line[pid].is_u64() && line[version].is_string(), "{line}");
        }
        assert_eq!(logged.len(), 2);
        assert_eq!((&logged[0]["from_pid"], &logged[1]["to_version"]), (&json!(7), &json!("0.2.0")));
    }

    #[test]
    fn lost_sessions_are_a_warning() {
        let logged = lines(|| log_taken_over(7, "0.1.0", &totals(1)));
        assert_eq!((&logged[0]["level"], &logged[0]["failed"]), (&json!("WARN"), &json!(1)));
    }

    #[test]
    fn every_line_of_a_reason_is_an_error_line() {
        let logged = lines(|| log_failure(&"rejected\nerror: unknown key\n  ^^^"));
        let messages: Vec<_> = logged.iter().map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!(messages, ["rejected", "error: unknown key", "  ^^^", "upgrade failed: this process continues"]);
        assert!(logged.iter().all(|line| line["level"] == "ERROR"), "{logged:?}");
    }
}
