//! The health of a server as another process takes it over.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::{DOWN, Health, History, later, millis};
use crate::balance::health::EJECT_FOR_MAX;

/// The health of a server. Times are relative to the export. The requests that wait, and a run of sessions that ended
/// early, are not part of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of `Health`")]
pub struct HealthState {
    consecutive: u32,
    failures: u64,
    reported: bool,
    ejections: u32,
    is_ejected: bool,
    is_silent: bool,
    is_failing: bool,
    is_troubled: bool,
    is_down: bool,
    /// The time for which requests pass the server over; `None` if they do not.
    skipped_for_ms: Option<u64>,
    ejected_for_ms: u64,
    /// The time since the begin of its slow start; `None` if there was none.
    slow_for_ms: Option<u64>,
}

impl Health {
    /// Returns the health for another process.
    pub(in crate::balance) fn export(&self, now_ms: u64) -> HealthState {
        let history = self.history();
        let skip_until = self.skip_until_ms.load(Ordering::Relaxed) & !DOWN;
        let slow_since = self.slow_since_ms.load(Ordering::Relaxed);
        HealthState {
            consecutive: history.consecutive,
            failures: history.failures,
            reported: history.reported,
            ejections: history.ejections,
            is_ejected: self.is_ejected(),
            is_silent: self.silent.load(Ordering::Relaxed),
            is_failing: self.is_failing(),
            is_troubled: self.has_failed(),
            is_down: self.is_down(),
            skipped_for_ms: (skip_until != 0).then(|| skip_until.saturating_sub(now_ms)),
            ejected_for_ms: history.ejected_until_ms.saturating_sub(now_ms),
            slow_for_ms: (slow_since != 0).then(|| now_ms.saturating_sub(slow_since)),
        }
    }

    /// Takes over the health that another process found. `is_checked` is whether checks can find the server up again;
    /// otherwise it is not down. A slow start that began before the clock of this pool begins with it.
    pub(in crate::balance) fn import(&self, state: &HealthState, now_ms: u64, is_checked: bool) {
        let mut history = self.history();
        let bounded = |time_ms: u64| std::time::Duration::from_millis(time_ms.min(millis(EJECT_FOR_MAX)));
        *history = History {
            consecutive: state.consecutive,
            run_since_ms: now_ms,
            failures: state.failures,
            reported: state.reported,
            ejections: state.ejections.min(u32::BITS - 1),
            ejected_until_ms: if state.ejected_for_ms == 0 { 0 } else { later(now_ms, bounded(state.ejected_for_ms)) },
            ..History::default()
        };
        let is_down = state.is_down && is_checked;
        let until = state.skipped_for_ms.map_or(0, |time_ms| later(now_ms, bounded(time_ms)));
        self.troubled.store(state.is_troubled, Ordering::Relaxed);
        self.ejected.store(state.is_ejected, Ordering::Relaxed);
        self.silent.store(state.is_silent, Ordering::Relaxed);
        self.failing.store(state.is_failing, Ordering::SeqCst);
        let slow = state.slow_for_ms.map_or(0, |time_ms| now_ms.saturating_sub(time_ms).max(1));
        self.slow_since_ms.store(slow, Ordering::Relaxed);
        self.skip_until_ms.store(until | if is_down { DOWN } else { 0 }, Ordering::Relaxed);
    }
}
