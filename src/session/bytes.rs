//! Meters the bytes of frames, header and payload, in each direction.
//!
//! A data frame is judged at its header, as a whole: a frame that exceeds the quota ends the session before any part of
//! it is forwarded, or its message is dropped. Where bytes are delayed, a frame is forwarded in pieces of at most the
//! burst, each when the quota allows it, so that a frame larger than the burst passes, too. Control frames are charged
//! and never wait. Later fragments of a message that began within the quota are charged as they pass, since a part of a
//! message cannot be dropped. A session that ends gives back the bytes that were charged and never arrived: other
//! sessions may share the quota.

use std::time::Instant;

use super::Session;
use super::metering::ByteMeters;
use super::outcome::CloseReason;
use super::side::Side;
use crate::policy::limits::{LimitKind, OnExcess};
use crate::ws::frame::{Header, Opcode};

impl Session {
    /// Returns the quotas of bytes.
    pub(super) fn bytes(&mut self) -> Option<&mut ByteMeters> {
        self.metering.as_mut()?.bytes.as_mut()
    }

    /// Returns until when a side is not read because it exceeded its rate.
    pub(super) fn wait_until(&self, side: Side) -> Option<Instant> {
        match side {
            Side::Client => self.wait_until,
            Side::Upstream => self.metering.as_ref()?.upstream_wait_until,
        }
    }

    /// Sets until when a side is not read. The upstream waits only for a quota of bytes.
    pub(super) fn set_wait(&mut self, side: Side, until: Option<Instant>) {
        match side {
            Side::Client => self.wait_until = until,
            Side::Upstream => {
                if let Some(metering) = &mut self.metering {
                    metering.upstream_wait_until = until;
                }
            }
        }
    }

    /// Whether the session has limits that few sessions have: a quota of bytes, or limits that are only reported.
    pub(super) fn has_rare_limits(&self) -> bool {
        self.metering.is_some()
    }

    /// Meters the first piece of a data frame, of which `available` bytes are there with its header. Returns how many
    /// bytes of its payload may be forwarded now; `None`: the side has to wait.
    pub(super) fn meter_first_piece(
        &mut self,
        from: Side,
        header: &Header,
        available: usize,
        now: Instant,
    ) -> Option<usize> {
        self.peer_mut(from).discarding_message &= header.opcode == Opcode::Continuation;
        if self.awaits_share(from, header, now) {
            return None;
        }
        let whole = usize::try_from(header.payload_len).unwrap_or(usize::MAX).saturating_add(header.len);
        let piece = self.meter_piece(from, whole.min(available), header.len, now)?;
        Some(piece.saturating_sub(header.len))
    }

    /// Whether a frame that is judged as a whole waits because this node awaits a greater share of the quota of bytes,
    /// which nodes share. Then its side waits.
    fn awaits_share(&mut self, from: Side, header: &Header, now: Instant) -> bool {
        if self.is_reporting || self.closing_since.is_some() || !self.judges_whole(from, header) {
            return false;
        }
        let bytes = header.payload_len.saturating_add(header.len as u64);
        let Some(meter) = self.bytes().map(|meters| meters.of(from)) else { return false };
        let Some(until) = meter.limiter.await_share(bytes, now) else { return false };
        let is_counted = std::mem::replace(&mut meter.is_counted, true);
        self.counts.throttled += u64::from(!is_counted);
        self.set_wait(from, Some(until));
        self.deadline_changed = true;
        true
    }

    /// Judges a data frame by these limits at its header.
    pub(super) fn judge_by_rare_limits(
        &mut self,
        from: Side,
        header: &Header,
        now: Instant,
    ) -> Result<(), CloseReason> {
        self.meter_frame(from, header, now)?;
        if self.is_reporting {
            self.report_sizes(from, header);
        }
        Ok(())
    }

    /// Records for these limits that `n` bytes of a data frame are forwarded or dropped.
    pub(super) fn pass_by_rare_limits(&mut self, from: Side, n: usize, now: Instant) {
        self.pass_metered(from, n, now);
        // The next time without data is reported again.
        self.deadline_changed |= self.is_idle_reported();
    }

    /// Meters the next `n` bytes of a data frame where bytes are delayed; `least` of them have to be forwarded at once.
    /// Returns how many may be forwarded now; `None`: the side has to wait.
    pub(super) fn meter_piece(&mut self, from: Side, n: usize, least: usize, now: Instant) -> Option<usize> {
        if !self.delays_bytes(from) {
            return Some(n);
        }
        let Some(meters) = self.bytes() else { return Some(n) };
        let meter = meters.of(from);
        match meter.reserve(n, least, now) {
            Ok(allowed) => Some(allowed),
            Err(until) => {
                let is_counted = std::mem::replace(&mut meter.is_counted, true);
                self.counts.throttled += u64::from(!is_counted);
                self.set_wait(from, Some(until));
                self.deadline_changed = true;
                None
            }
        }
    }

    /// Meters a data frame as a whole at its header, where bytes are not delayed.
    fn meter_frame(&mut self, from: Side, header: &Header, now: Instant) -> Result<(), CloseReason> {
        if !self.judges_whole(from, header) {
            return Ok(());
        }
        let action = self.byte_action(from);
        let bytes = header.payload_len.saturating_add(header.len as u64);
        let Some(meters) = self.bytes() else { return Ok(()) };
        let meter = meters.of(from);
        if !meter.check(bytes, now) {
            if meter.limiter.is_pending(bytes, now) {
                // Another session took the rest of the share meanwhile. These bytes are charged as they pass.
                return Ok(());
            }
            let kind = if from == Side::Client { LimitKind::ByteRate } else { LimitKind::UpstreamByteRate };
            self.counts.throttled += u64::from(!self.is_reporting);
            if self.is_reporting || action == OnExcess::Close {
                return self.exceed(kind, CloseReason::ByteRate(from));
            }
            // Also where bytes are delayed, while the session closes: an endpoint that has received a Close discards
            // data anyway (RFC 6455 section 1.4).
            self.client.discarding_message = true;
        }
        Ok(())
    }

    /// Whether a data frame is judged as a whole at its header.
    fn judges_whole(&self, from: Side, header: &Header) -> bool {
        if self.delays_bytes(from) || self.is_skipped(from) {
            return false;
        }
        let can_drop = from == Side::Client && header.opcode != Opcode::Continuation;
        // The bytes of a frame that must pass are charged as they pass: it may be larger than any quota, and its rest may
        // never arrive.
        self.is_reporting || self.byte_action(from) == OnExcess::Close || can_drop
    }

    /// Records that `n` metered bytes are forwarded or dropped, and charges those that are forwarded and were not
    /// charged before. Where limits are only reported, bytes beyond the quota are not charged, as if they had not
    /// passed.
    fn pass_metered(&mut self, from: Side, n: usize, now: Instant) {
        let ends_frame = self.peer(from).inspector.at_boundary();
        let charges = !self.is_reporting && !self.is_skipped(from);
        let Some(meters) = self.bytes() else { return };
        let meter = meters.of(from);
        let uncharged = meter.pass(n as u64, ends_frame);
        if charges && uncharged > 0 {
            meter.limiter.charge(uncharged, now);
        }
    }

    /// Charges a control frame that is forwarded.
    #[cold]
    #[inline(never)]
    pub(super) fn charge_control(&mut self, from: Side, bytes: usize, now: Instant) {
        if let Some(meters) = self.bytes() {
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
