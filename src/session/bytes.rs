//! Meters the bytes of frames, header and payload, in each direction.
//!
//! A data frame is judged at its header, as a whole: a frame that exceeds the quota ends the session before any part of it
//! is forwarded, or its message is dropped. Where bytes are delayed, a frame is forwarded in pieces of at most the burst,
//! each when the quota allows it, so that a frame larger than the burst passes, too. Control frames are charged and never
//! wait. Fragments of a message that began within the quota are charged as well, since a part of a message cannot be
//! dropped.

use std::sync::Arc;
use std::time::Instant;

use super::Session;
use super::outcome::CloseReason;
use super::side::Side;
use crate::policy::byte_quota::ByteLimiter;
use crate::policy::limits::{LimitKind, Limits, OnExcess};
use crate::policy::quota::{Count, NotUntil};
use crate::ws::frame::{Header, Opcode};

/// The quotas of both directions. Only sessions with a quota of bytes allocate this.
#[derive(Debug)]
pub(super) struct ByteMeters {
    client: ByteMeter,
    upstream: ByteMeter,
}

/// The quota of one direction.
#[derive(Debug)]
struct ByteMeter {
    limiter: ByteLimiter,
    /// The number of bytes that are reserved for the piece that comes next.
    reserved: u32,
    /// Whether the frame in progress was counted as throttled.
    is_counted: bool,
}

/// The state of one direction as plain data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteMeterState {
    /// The count, as [`Count::export`] returns it.
    pub count: i64,
    /// The number of bytes that are reserved for the piece that comes next.
    pub reserved: u32,
    /// Whether the frame in progress was counted as throttled.
    pub is_counted: bool,
}

impl ByteMeters {
    /// Creates the meters of a session with a quota of bytes. Without shared counts it has counts of its own.
    pub(super) fn new(limits: &Limits, counts: Option<[Arc<Count>; 2]>) -> Option<Box<Self>> {
        let quota = limits.bytes?.quota;
        let [client, upstream] = counts.unwrap_or_default();
        let meter = |count| ByteMeter { limiter: ByteLimiter::over(count, quota), reserved: 0, is_counted: false };
        Some(Box::new(Self { client: meter(client), upstream: meter(upstream) }))
    }

    /// Returns the counts.
    pub(super) fn counts(&self) -> [Arc<Count>; 2] {
        [&self.client, &self.upstream].map(|meter| Arc::clone(meter.limiter.count()))
    }

    /// Whether the counts are these.
    pub(super) fn has_counts(&self, [client, upstream]: &[Arc<Count>; 2]) -> bool {
        Arc::ptr_eq(self.client.limiter.count(), client) && Arc::ptr_eq(self.upstream.limiter.count(), upstream)
    }

    /// Gives back the reserved bytes.
    pub(super) fn refund(&mut self) {
        for meter in [&mut self.client, &mut self.upstream] {
            meter.limiter.refund(std::mem::take(&mut meter.reserved).into());
        }
    }

    /// Records that the next piece is forwarded or dropped, and whether it ends its frame.
    pub(super) fn pass(&mut self, from: Side, ends_frame: bool) {
        let meter = self.of(from);
        meter.reserved = 0;
        meter.is_counted &= !ends_frame;
    }

    pub(super) fn export(&self, now: Instant) -> [ByteMeterState; 2] {
        [&self.client, &self.upstream].map(|meter| ByteMeterState {
            count: meter.limiter.count().export(now),
            reserved: meter.reserved,
            is_counted: meter.is_counted,
        })
    }

    pub(super) fn restore(&mut self, states: &[ByteMeterState; 2]) {
        for (meter, state) in [&mut self.client, &mut self.upstream].into_iter().zip(states) {
            (meter.reserved, meter.is_counted) = (state.reserved, state.is_counted);
        }
    }

    fn of(&mut self, from: Side) -> &mut ByteMeter {
        match from {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }
}

impl ByteMeter {
    /// Reserves the next bytes of a frame: at least `least`, and at most the burst. Returns how many of `n` bytes may be
    /// forwarded now.
    fn reserve(&mut self, n: usize, least: usize, now: Instant) -> Result<usize, Instant> {
        if self.reserved == 0 {
            let burst = usize::try_from(self.limiter.burst_bytes()).unwrap_or(usize::MAX);
            let piece = u32::try_from(n.min(burst.max(least))).unwrap_or(u32::MAX);
            match self.limiter.reserve(piece.into(), now) {
                Ok(at) => {
                    self.reserved = piece;
                    if at > now {
                        return Err(at);
                    }
                }
                Err(NotUntil { until }) => return Err(until),
            }
        }
        Ok(n.min(usize::try_from(self.reserved).unwrap_or(usize::MAX)))
    }
}

impl Session {
    /// Meters the next `n` bytes of a data frame where bytes are delayed; `least` of them have to be forwarded at once.
    /// Returns how many may be forwarded now; `None`: the side has to wait.
    pub(super) fn meter_piece(&mut self, from: Side, n: usize, least: usize, now: Instant) -> Option<usize> {
        if !self.delays_bytes(from) {
            return Some(n);
        }
        let Some(meters) = &mut self.bytes else { return Some(n) };
        let meter = meters.of(from);
        match meter.reserve(n, least, now) {
            Ok(allowed) => Some(allowed),
            Err(until) => {
                let is_counted = std::mem::replace(&mut meter.is_counted, true);
                self.counts.throttled += u64::from(!is_counted);
                self.peer_mut(from).wait_until = Some(until);
                self.deadline_changed = true;
                None
            }
        }
    }

    /// Meters a data frame as a whole at its header, where bytes are not delayed.
    pub(super) fn meter_frame(&mut self, from: Side, header: &Header, now: Instant) -> Result<(), CloseReason> {
        if self.delays_bytes(from) || self.is_skipped(from) {
            return Ok(());
        }
        let action = self.byte_action(from);
        let Some(meters) = &mut self.bytes else { return Ok(()) };
        let limiter = &meters.of(from).limiter;
        let bytes = header.payload_len.saturating_add(header.len as u64);
        let can_drop = from == Side::Client && header.opcode != Opcode::Continuation;
        let must_pass = !self.is_reporting && action != OnExcess::Close && !can_drop;
        if must_pass {
            limiter.charge(bytes, now);
        } else if !limiter.check(bytes, now) {
            let kind = if from == Side::Client { LimitKind::ByteRate } else { LimitKind::UpstreamByteRate };
            self.counts.throttled += u64::from(!self.is_reporting);
            if self.is_reporting || action == OnExcess::Close {
                return self.exceed(kind, CloseReason::ByteRate(from));
            }
            // Also where bytes are delayed, while the session closes: an endpoint that has received a Close discards data
            // anyway (RFC 6455 section 1.4).
            self.client.discarding_message = true;
        }
        Ok(())
    }

    /// Records that the metered bytes are forwarded or dropped.
    pub(super) fn pass_metered(&mut self, from: Side) {
        let ends_frame = self.peer(from).inspector.at_boundary();
        if let Some(meters) = &mut self.bytes {
            meters.pass(from, ends_frame);
        }
    }

    /// Charges a control frame that is forwarded.
    pub(super) fn charge_control(&mut self, from: Side, bytes: usize, now: Instant) {
        if let Some(meters) = &mut self.bytes {
            meters.of(from).limiter.charge(bytes as u64, now);
        }
    }

    /// Whether the data of a side has to wait while its quota is exceeded.
    fn delays_bytes(&self, from: Side) -> bool {
        let waits = !self.is_reporting && self.byte_action(from) == OnExcess::Delay && self.closing_since.is_none();
        waits && !self.is_skipped(from)
    }

    /// Whether the message in progress is not forwarded.
    fn is_skipped(&self, from: Side) -> bool {
        self.peer(from).discarding_message || self.peer(from.other()).output_closed()
    }

    /// Returns the treatment of bytes from a side that exceed the quota. Messages of the upstream are never dropped.
    fn byte_action(&self, from: Side) -> OnExcess {
        match (self.on_excess, from) {
            (OnExcess::Drop, Side::Upstream) => OnExcess::Delay,
            (on_excess, _) => on_excess,
        }
    }
}
