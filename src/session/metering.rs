//! The state of limits that few sessions have: quotas of bytes, and reports.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::side::Side;
use crate::policy::byte_quota::ByteLimiter;
use crate::policy::limits::{LimitKind, Limits};
use crate::policy::quota::{Count, NotUntil};

/// The state of limits that few sessions have. Only sessions with a quota of bytes, and those whose limits are
/// only reported, allocate it.
#[derive(Debug, Default)]
pub(super) struct Metering {
    pub bytes: Option<ByteMeters>,
    pub reports: Option<Reports>,
    /// Until when the upstream is not read because it exceeded its rate.
    pub upstream_wait_until: Option<Instant>,
}

impl Metering {
    /// Returns the state of a session, if it has one of these limits or has reported one.
    pub(super) fn boxed(self, is_reporting: bool) -> Option<Box<Self>> {
        (self.bytes.is_some() || self.reports.is_some() || is_reporting).then(|| Box::new(self))
    }
}

/// The quotas of both directions.
#[derive(Debug)]
pub(super) struct ByteMeters {
    client: ByteMeter,
    upstream: ByteMeter,
}

/// The quota of one direction.
#[derive(Debug)]
pub(super) struct ByteMeter {
    pub limiter: ByteLimiter,
    /// The number of bytes that are charged and have not passed yet: the rest of a frame that was judged as a whole, or
    /// a piece that waits.
    reserved: u64,
    /// When they were charged.
    reserved_at: Option<Instant>,
    /// Whether the frame in progress was counted as throttled.
    pub is_counted: bool,
}

/// The state of one direction as plain data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteMeterState {
    /// The count, as [`Count::export`] returns it.
    pub count: i64,
    /// The number of bytes that are charged and have not passed yet.
    pub reserved: u64,
    /// How long ago they were charged.
    pub held: Duration,
    /// Whether the frame in progress was counted as throttled.
    pub is_counted: bool,
}

impl ByteMeters {
    /// Creates the meters of a session with a quota of bytes. Without shared counts it has counts of its own.
    pub(super) fn new(limits: &Limits, counts: Option<[Arc<Count>; 2]>) -> Option<Self> {
        let quota = limits.bytes?.quota;
        let [client, upstream] = counts.unwrap_or_default();
        let meter = |count| ByteMeter {
            limiter: ByteLimiter::over(count, quota),
            reserved: 0,
            reserved_at: None,
            is_counted: false,
        };
        Some(Self { client: meter(client), upstream: meter(upstream) })
    }

    /// Returns the counts.
    pub(super) fn counts(&self) -> [Arc<Count>; 2] {
        [&self.client, &self.upstream].map(|meter| Arc::clone(meter.limiter.count()))
    }

    /// Whether the counts are these.
    pub(super) fn has_counts(&self, [client, upstream]: &[Arc<Count>; 2]) -> bool {
        Arc::ptr_eq(self.client.limiter.count(), client) && Arc::ptr_eq(self.upstream.limiter.count(), upstream)
    }

    /// Gives back the bytes that are charged and have not passed. Those that pass later are charged then.
    pub(super) fn refund(&mut self, now: Instant) {
        for meter in [&mut self.client, &mut self.upstream] {
            let held = meter.held(now);
            meter.limiter.refund(std::mem::take(&mut meter.reserved), held);
        }
    }

    pub(super) fn export(&self, now: Instant) -> [ByteMeterState; 2] {
        [&self.client, &self.upstream].map(|meter| ByteMeterState {
            count: meter.limiter.count().export(now),
            reserved: meter.reserved,
            held: meter.held(now),
            is_counted: meter.is_counted,
        })
    }

    pub(super) fn restore(&mut self, states: &[ByteMeterState; 2], now: Instant) {
        for (meter, state) in [&mut self.client, &mut self.upstream].into_iter().zip(states) {
            (meter.reserved, meter.is_counted) = (state.reserved, state.is_counted);
            meter.reserved_at = now.checked_sub(state.held);
        }
    }

    pub(super) fn of(&mut self, from: Side) -> &mut ByteMeter {
        match from {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }
}

impl ByteMeter {
    /// Reserves the next bytes of a frame: at least `least`, and at most the burst. Returns how many of `n` bytes may
    /// be forwarded now.
    pub(super) fn reserve(&mut self, n: usize, least: usize, now: Instant) -> Result<usize, Instant> {
        if self.reserved == 0 {
            let burst = usize::try_from(self.limiter.burst_bytes(now)).unwrap_or(usize::MAX);
            let piece = n.min(burst.max(least)) as u64;
            match self.limiter.reserve(piece, now) {
                Ok(at) => {
                    self.set_reserved(piece, now);
                    if at > now {
                        return Err(at);
                    }
                }
                Err(NotUntil { until }) => return Err(until),
            }
        }
        Ok(n.min(usize::try_from(self.reserved).unwrap_or(usize::MAX)))
    }

    /// Charges a whole frame at its header, if the quota allows it. Returns whether it does.
    pub(super) fn check(&mut self, bytes: u64, now: Instant) -> bool {
        let allowed = self.limiter.check(bytes, now);
        if allowed {
            self.set_reserved(bytes, now);
        }
        allowed
    }

    /// Records that the next `n` bytes are forwarded or dropped, and whether they end their frame. Returns how many of
    /// them are not charged yet.
    pub(super) fn pass(&mut self, n: u64, ends_frame: bool) -> u64 {
        let charged = self.reserved.min(n);
        self.reserved = self.reserved.saturating_sub(charged);
        self.is_counted &= !ends_frame;
        n.saturating_sub(charged)
    }

    fn set_reserved(&mut self, bytes: u64, now: Instant) {
        (self.reserved, self.reserved_at) = (bytes, Some(now));
    }

    /// Returns how long ago the reserved bytes were charged.
    fn held(&self, now: Instant) -> Duration {
        self.reserved_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }
}

/// The number of times that each limit would have acted, by the position in [`LimitKind::ALL`].
pub type ReportCounts = [u64; LimitKind::ALL.len()];

/// The reports of a session.
#[derive(Debug, Default)]
pub(super) struct Reports {
    pub counts: ReportCounts,
    /// The counts that the caller has taken.
    pub taken: ReportCounts,
    /// When data last passed, in a session that was reported as idle since then.
    pub idle_since: Option<Instant>,
}

/// A limit that would have acted since the last call of [`Session::take_reports`](super::Session::take_reports).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewReport {
    /// The limit.
    pub kind: LimitKind,
    /// How often.
    pub count: u64,
    /// Whether it is the first time in this session.
    pub is_first: bool,
}
