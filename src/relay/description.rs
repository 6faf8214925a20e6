//! The description of an open session: what it does, how much it forwarded, and what it waits for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::policy::limits::{LimitKind, Limits};
use crate::session::SessionStats;
use crate::session::state::RelativeTime;
use crate::telemetry::request::RequestId;

/// The shortest time over which rates are measured, and half of the longest.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// The activity of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionActivity {
    /// It forwards messages.
    Open,
    /// A side exceeded its rate and is not read.
    Throttled,
    /// Its closing handshake has begun, or the upstream is lost and the client is closed soon.
    Closing,
    /// It is over, and its connections are being closed.
    Lingering,
}

impl SessionActivity {
    /// Returns its name in the admin API.
    pub fn label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Throttled => "throttled",
            Self::Closing => "closing",
            Self::Lingering => "lingering",
        }
    }
}

/// The description of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionInfo {
    /// The id of its request.
    pub id: RequestId,
    /// The time since its 101.
    pub age: Duration,
    /// Its activity.
    pub activity: SessionActivity,
    /// The messages and bytes that it has forwarded.
    pub stats: SessionStats,
    /// The messages of the upstream that were dropped because the client was too slow.
    pub dropped: u64,
    /// The messages and bytes per second over the last ten seconds.
    pub rates: Rates,
    /// The time since a message last passed in either direction.
    pub last_activity: Duration,
    /// The limits that would have acted, and how often.
    pub reported: Vec<(LimitKind, u64)>,
    /// The limits in force.
    pub limits: Arc<Limits>,
    /// The TLS version of the connection to the upstream, as in `TLSv1_3`, unless it has no TLS.
    pub upstream_tls: Option<&'static str>,
    /// The bytes from the client that are not forwarded yet.
    pub buffered_in: usize,
    /// The bytes for the client that its socket has not taken yet.
    pub buffered_out: usize,
    /// The time until the next deadline, and its name.
    pub next_deadline: Option<(Duration, &'static str)>,
}

/// Messages and bytes per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Messages from the client.
    pub messages_in: f64,
    /// Bytes from the client.
    pub bytes_in: f64,
    /// Messages to the client.
    pub messages_out: f64,
    /// Bytes to the client.
    pub bytes_out: f64,
}

/// Two earlier counts of a session. The older one is five to ten seconds old while the session forwards messages, so
/// rates are measured over that time. The window of an idle session becomes longer, and its rates fall.
#[derive(Debug)]
pub(super) struct RateWindow {
    older: Sample,
    newer: Sample,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    counts: [u64; 4],
}

/// The state of the rates as plain data: two times, each with the counts at that time.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct RateWindowState([(RelativeTime, [u64; 4]); 2]);

impl RateWindow {
    /// Returns the state.
    pub(super) fn export(&self, now: Instant) -> RateWindowState {
        RateWindowState([self.older, self.newer].map(|sample| (RelativeTime::since(sample.at, now), sample.counts)))
    }

    /// Continues from a state.
    pub(super) fn import(RateWindowState(samples): RateWindowState, now: Instant) -> Self {
        let [older, newer] = samples.map(|(at, counts)| Sample { at: at.to_instant(now), counts });
        Self { older, newer }
    }

    /// Begins with the counts of a session that is about to forward messages.
    pub(super) fn new(before: &SessionStats, now: Instant) -> Self {
        let sample = Sample { at: now, counts: counts(before) };
        Self { older: sample, newer: sample }
    }

    /// Records the counts, at most once in five seconds. To be called whenever messages were forwarded.
    #[inline]
    pub(super) fn record(&mut self, stats: &SessionStats, now: Instant) {
        if now.saturating_duration_since(self.newer.at) >= RATE_WINDOW {
            self.older = std::mem::replace(&mut self.newer, Sample { at: now, counts: counts(stats) });
        }
    }

    /// Returns the rates at this time.
    pub(super) fn rates(&self, stats: &SessionStats, now: Instant) -> Rates {
        // A newer sample that is older than the window shows that the session was idle since.
        let long_ago = now.saturating_duration_since(self.newer.at) >= RATE_WINDOW.saturating_mul(2);
        let sample = if long_ago { self.newer } else { self.older };
        let seconds = now.saturating_duration_since(sample.at).as_secs_f64().max(1.0);
        let mut rates = counts(stats).into_iter().zip(sample.counts).map(|(now, then)| {
            #[expect(clippy::cast_precision_loss, reason = "a rate does not need 53 bits")]
            let difference = now.saturating_sub(then) as f64;
            difference / seconds
        });
        let mut next = || rates.next().unwrap_or_default();
        Rates { messages_in: next(), bytes_in: next(), messages_out: next(), bytes_out: next() }
    }
}

fn counts(stats: &SessionStats) -> [u64; 4] {
    [stats.client.messages, stats.client.bytes, stats.upstream.messages, stats.upstream.bytes]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;
    use crate::session::DirectionStats;

    fn stats(messages: u64) -> SessionStats {
        SessionStats { client: DirectionStats { messages, bytes: 10 * messages }, ..SessionStats::default() }
    }

    #[test]
    fn rates_are_measured_over_the_last_ten_seconds() {
        let start = clock::now();
        let mut window = RateWindow::new(&stats(0), start);
        for second in 0..60 {
            window.record(&stats(100 * second), start + Duration::from_secs(second));
        }
        let rates = window.rates(&stats(5900), start + Duration::from_secs(59));
        assert!((90.0..110.0).contains(&rates.messages_in) && (900.0..1100.0).contains(&rates.bytes_in), "{rates:?}");
        assert_eq!((rates.messages_out, rates.bytes_out), (0.0, 0.0));
    }

    #[test]
    fn the_rates_of_an_idle_session_fall() {
        let start = clock::now();
        let mut window = RateWindow::new(&stats(0), start);
        window.record(&stats(1000), start + Duration::from_secs(5));
        let after = |seconds| window.rates(&stats(1000), start + Duration::from_secs(seconds)).messages_in;
        assert!(after(6) > 100.0 && after(20) < 1.0);
    }
    /// A session that was idle begins a new window, in which its earlier messages do not count.
    #[test]
    fn earlier_messages_do_not_count_in_a_new_window() {
        let start = clock::now();
        let mut window = RateWindow::new(&stats(3000), start);
        window.record(&stats(3001), start);
        assert!(window.rates(&stats(3001), start + Duration::from_secs(1)).messages_in <= 1.0);
    }
}
