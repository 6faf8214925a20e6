//! Measures how long each phase of an upgrade takes, so that the log explains a slow one.

use std::time::{Duration, Instant};

/// A phase of an upgrade. The phases follow each other in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpgradePhase {
    /// The connection waits for its permit, see `max_handshakes`.
    Queue,
    /// The TLS handshake.
    Tls,
    /// The client sends its request head.
    Head,
    /// The request is parsed and admitted.
    Admission,
    /// The request waits for a server that may get it, see `queue_timeout`, `hold_upgrades` and `admit_rate`.
    Wait,
    /// The upstream accepts a connection and sends its response. The client sends the body of an ordinary request
    /// meanwhile.
    Connect,
    /// The client takes its 101.
    Answer,
}

const PHASES: usize = UpgradePhase::Answer as usize + 1;

/// The progress of one upgrade: its current phase, and the durations of those before.
#[derive(Debug, Clone, Copy)]
pub struct UpgradePhases {
    started: Instant,
    current: UpgradePhase,
    /// The start of the current phase.
    since: Instant,
    ended: [Option<Duration>; PHASES],
}

/// The durations of the phases of a slow upgrade. Empty if the upgrade is not slow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PhaseTimes {
    phases: [Option<Duration>; PHASES],
    total: Option<Duration>,
}

impl UpgradePhases {
    /// Starts with the first phase.
    pub fn start(now: Instant) -> Self {
        Self { started: now, current: UpgradePhase::Queue, since: now, ended: [None; PHASES] }
    }

    /// Ends the current phase and enters another one.
    pub fn enter(&mut self, phase: UpgradePhase, now: Instant) {
        record(&mut self.ended, self.current, now.saturating_duration_since(self.since));
        (self.current, self.since) = (phase, now);
    }

    /// Moves a part of the current phase, of this duration, to another phase.
    pub fn part(&mut self, phase: UpgradePhase, part: Duration) {
        record(&mut self.ended, phase, part);
        self.since = self.since.checked_add(part).unwrap_or(self.since);
    }

    /// Returns the durations up to now, the current phase included, if all of them together exceed `slow`. `None` never
    /// counts as exceeded.
    pub fn times(&self, slow: Option<Duration>, now: Instant) -> PhaseTimes {
        let total = now.saturating_duration_since(self.started);
        if slow.is_none_or(|slow| total <= slow) {
            return PhaseTimes::default();
        }
        let mut phases = self.ended;
        record(&mut phases, self.current, now.saturating_duration_since(self.since));
        PhaseTimes { phases, total: Some(total) }
    }
}

fn record(durations: &mut [Option<Duration>; PHASES], phase: UpgradePhase, duration: Duration) {
    if let Some(entry) = durations.get_mut(phase as usize) {
        *entry = Some(duration);
    }
}

impl PhaseTimes {
    /// Whether the upgrade is slow.
    pub fn is_slow(&self) -> bool {
        self.total.is_some()
    }

    /// Returns the duration of a phase in milliseconds. `None` if the upgrade is not slow or did not reach the phase.
    pub fn ms(&self, phase: UpgradePhase) -> Option<u64> {
        self.phases.get(phase as usize).copied().flatten().map(millis)
    }

    /// Returns the duration of all phases in milliseconds. `None` if the upgrade is not slow.
    pub fn total_ms(&self) -> Option<u64> {
        self.total.map(millis)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Logs an event with the durations of the phases in front of its other fields. Those that are absent are omitted.
macro_rules! phase_event {
    ($level:expr, $times:expr, $($arguments:tt)*) => {
        $crate::telemetry::event::event!(
            $level,
            queue_ms = $times.ms($crate::telemetry::phases::UpgradePhase::Queue),
            tls_ms = $times.ms($crate::telemetry::phases::UpgradePhase::Tls),
            head_ms = $times.ms($crate::telemetry::phases::UpgradePhase::Head),
            admission_ms = $times.ms($crate::telemetry::phases::UpgradePhase::Admission),
            wait_ms = $times.ms($crate::telemetry::phases::UpgradePhase::Wait),
            connect_ms = $times.ms($crate::telemetry::phases::UpgradePhase::Connect),
            answer_ms = $times.ms($crate::telemetry::phases::UpgradePhase::Answer),
            total_ms = $times.total_ms(),
            $($arguments)*
        )
    };
}
pub(super) use phase_event;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_phases_of_a_slow_upgrade_add_up_to_its_total() {
        let start = crate::runtime::clock::now();
        let mut phases = UpgradePhases::start(start);
        phases.enter(UpgradePhase::Tls, start + 2 * MS);
        phases.enter(UpgradePhase::Head, start + 10 * MS);
        phases.enter(UpgradePhase::Admission, start + 15 * MS);
        let times = phases.times(Some(20 * MS), start + 21 * MS);
        let all = [
            UpgradePhase::Queue,
            UpgradePhase::Tls,
            UpgradePhase::Head,
            UpgradePhase::Admission,
            UpgradePhase::Wait,
            UpgradePhase::Connect,
            UpgradePhase::Answer,
        ];
        assert_eq!(all.map(|phase| times.ms(phase)), [Some(2), Some(8), Some(5), Some(6), None, None, None]);
        assert_eq!((times.is_slow(), times.total_ms()), (true, Some(21)));
    }

    #[test]
    fn a_wait_is_a_phase_of_its_own() {
        let start = crate::runtime::clock::now();
        let mut phases = UpgradePhases::start(start);
        phases.enter(UpgradePhase::Connect, start + MS);
        phases.part(UpgradePhase::Wait, 7 * MS);
        phases.enter(UpgradePhase::Answer, start + 10 * MS);
        let times = phases.times(Some(MS), start + 12 * MS);
        let all = [UpgradePhase::Queue, UpgradePhase::Wait, UpgradePhase::Connect, UpgradePhase::Answer];
        assert_eq!(all.map(|phase| times.ms(phase)), [Some(1), Some(7), Some(2), Some(2)]);
        assert_eq!(times.total_ms(), Some(12));
    }

    #[test]
    fn an_upgrade_within_the_threshold_or_without_one_is_not_slow() {
        let start = crate::runtime::clock::now();
        let phases = UpgradePhases::start(start);
        for (slow, after) in [(Some(MS), MS), (Some(MS), Duration::ZERO), (None, 1_000_000 * MS)] {
            assert_eq!(phases.times(slow, start + after), PhaseTimes::default(), "{slow:?} {after:?}");
        }
        assert!(!PhaseTimes::default().is_slow());
    }
}
