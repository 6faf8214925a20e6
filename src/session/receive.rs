//! Judges the input of both sides: forwards it, drops it, delays it, or ends the session.

use std::time::Instant;

use super::outcome::{CloseReason, ClosedBy, Outcome};
use super::peer::Input;
use super::side::Side;
use super::{SMALL_FRAGMENT_BYTES, Session, Verdict};
use crate::policy::limits::{LimitKind, OnExcess};
use crate::policy::quota::NotUntil;
use crate::ws::close::Close;
use crate::ws::code::CloseCode;
use crate::ws::frame::{CONTROL_MAX_BYTES, Header, Opcode, apply_mask};
use crate::ws::inspector::Next;

/// Whether a session has limits that few sessions have.
const RARE: bool = true;
const COMMON: bool = false;

impl Session {
    /// Returns the verdict on the first of the bytes received from a side.
    pub fn receive(&mut self, from: Side, bytes: &[u8], now: Instant) -> Verdict {
        if bytes.is_empty() {
            return Verdict::More;
        }
        // Input cancels the pong timeout. The next ping may be due earlier than that timeout.
        self.deadline_changed |= self.peer(from).pinged.is_some();
        let peer = self.peer_mut(from);
        peer.on_activity(now);
        if peer.input != Input::Open {
            return Verdict::Discard(bytes.len());
        }
        self.judge(from, bytes, now).unwrap_or_else(|cause| {
            self.peer_mut(from).input = Input::Broken;
            self.end(ClosedBy::Tollgate, cause, now);
            Verdict::Discard(bytes.len())
        })
    }

    /// Charges TLS key updates of the client, which cost as much as a dozen frames, to the quota of control frames.
    pub fn count_key_updates(&mut self, count: u8, now: Instant) {
        let exceeded = (0..count).any(|_| self.count_overhead(now).is_err());
        if exceeded && self.client.input == Input::Open {
            self.client.input = Input::Broken;
            self.end(ClosedBy::Tollgate, CloseReason::OverheadRate, now);
        }
    }

    fn count_overhead(&mut self, now: Instant) -> Result<(), CloseReason> {
        match self.overhead.check(now) {
            Ok(()) => Ok(()),
            Err(_) => self.exceed(LimitKind::OverheadRate, CloseReason::OverheadRate),
        }
    }

    fn judge(&mut self, from: Side, bytes: &[u8], now: Instant) -> Result<Verdict, CloseReason> {
        let broken = |violation| CloseReason::Violation(from, violation);
        match self.peer(from).inspector.look(bytes).map_err(broken)? {
            Next::Incomplete => Ok(Verdict::More),
            Next::Payload(n) if self.has_rare_limits() => self.judge_rare_payload(from, n, bytes, now),
            Next::Payload(n) => self.judge_payload::<COMMON>(from, n, bytes, now),
            Next::Data(header) if self.has_rare_limits() => self.judge_rare_data(from, &header, bytes, now),
            Next::Data(header) => self.judge_data::<COMMON>(from, &header, usize::MAX, bytes, now),
            Next::Control(header) => self.judge_control(from, &header, bytes, now),
        }
    }

    /// Judges a frame of a session with limits that few sessions have. This code is apart from that of all other frames,
    /// so that these cost one check.
    #[cold]
    #[inline(never)]
    fn judge_rare_data(
        &mut self,
        from: Side,
        header: &Header,
        bytes: &[u8],
        now: Instant,
    ) -> Result<Verdict, CloseReason> {
        let Some(most) = self.meter_first_piece(from, header, bytes.len(), now) else { return Ok(Verdict::Wait) };
        self.judge_data::<RARE>(from, header, most, bytes, now)
    }

    /// As [`Session::judge_rare_data`], for further payload of a frame.
    #[cold]
    #[inline(never)]
    fn judge_rare_payload(&mut self, from: Side, n: usize, bytes: &[u8], now: Instant) -> Result<Verdict, CloseReason> {
        let Some(n) = self.meter_piece(from, n, 1, now) else { return Ok(Verdict::Wait) };
        self.judge_payload::<RARE>(from, n, bytes, now)
    }

    #[inline]
    fn judge_payload<const IS_RARE: bool>(
        &mut self,
        from: Side,
        n: usize,
        bytes: &[u8],
        now: Instant,
    ) -> Result<Verdict, CloseReason> {
        let payload = bytes.get(..n).unwrap_or(bytes);
        let checked = self.peer_mut(from).inspector.payload(payload);
        checked.map_err(|violation| CloseReason::Violation(from, violation))?;
        Ok(self.pass_data::<IS_RARE>(from, n, now))
    }

    /// Judges a data frame, of whose payload at most `most` bytes may be forwarded now.
    #[inline]
    fn judge_data<const IS_RARE: bool>(
        &mut self,
        from: Side,
        header: &Header,
        most: usize,
        bytes: &[u8],
        now: Instant,
    ) -> Result<Verdict, CloseReason> {
        let broken = |violation| CloseReason::Violation(from, violation);
        let first = header.opcode != Opcode::Continuation;
        if from == Side::Client && !self.upstream.output_closed() {
            if first && let Some(step) = self.count_message(now)? {
                return Ok(step);
            }
            let small_fragment = !first && !header.fin && header.payload_len < SMALL_FRAGMENT_BYTES;
            let uncounted_nothing = first && header.payload_len == 0 && self.messages.is_none();
            if small_fragment || uncounted_nothing {
                self.count_overhead(now)?;
            }
        }
        if IS_RARE {
            self.judge_by_rare_limits(from, header, now)?;
        }
        let payload = bytes.get(header.len..).unwrap_or_default();
        let here = usize::try_from(header.payload_len).unwrap_or(usize::MAX).min(payload.len()).min(most);
        let peer = self.peer_mut(from);
        peer.inspector.begin(header).map_err(broken)?;
        if here > 0 {
            peer.inspector.payload(payload.get(..here).unwrap_or_default()).map_err(broken)?;
        }
        let skipped = self.peer(from).discarding_message || self.peer(from.other()).output_closed();
        if first && !skipped {
            self.counts.of(from).messages += 1;
        }
        Ok(self.pass_data::<IS_RARE>(from, header.len + here, now))
    }

    /// Counts the message that begins here against the quota. Returns a verdict if the message must wait.
    #[expect(clippy::inline_always, reason = "with two callers the compiler would call it for each message")]
    #[inline(always)]
    fn count_message(&mut self, now: Instant) -> Result<Option<Verdict>, CloseReason> {
        self.client.discarding_message = false;
        if std::mem::take(&mut self.reservation_held) {
            return Ok(None);
        }
        let Some(messages) = &self.messages else { return Ok(None) };
        if self.on_excess == OnExcess::Delay && !self.is_reporting && self.closing_since.is_none() {
            let asked = messages.reserve(now);
            return Ok(self.delay(asked, now));
        }
        let Err(_) = messages.check(now) else {
            self.reservation_retry = false;
            return Ok(None);
        };
        if messages.is_pending(now) {
            return Ok(self.await_share(now));
        }
        if self.is_reporting {
            self.report(LimitKind::MessageRate);
            return Ok(None);
        }
        let waited = std::mem::take(&mut self.reservation_retry);
        self.counts.throttled += u64::from(!waited);
        match self.on_excess {
            OnExcess::Close => Err(CloseReason::MessageRate),
            // While the session closes, the message is dropped and not delayed: an endpoint that has received a Close
            // discards data anyway (RFC 6455 section 1.4), and the awaited Close may follow the message.
            OnExcess::Delay | OnExcess::Drop => {
                self.client.discarding_message = true;
                Ok(None)
            }
        }
    }

    /// Delays a message that this node's share of the quota refuses, while it awaits a greater one: the other nodes may
    /// leave it enough. Where limits are only reported, or while the session closes, the message passes.
    #[cold]
    #[inline(never)]
    fn await_share(&mut self, now: Instant) -> Option<Verdict> {
        if self.is_reporting || self.closing_since.is_some() {
            return None;
        }
        let asked = self.messages.as_ref()?.reserve(now);
        self.delay(asked, now)
    }

    /// Delays the client until the time of its reserved cell. If too many messages wait and no cell can be
    /// reserved, the client waits until it may retry.
    fn delay(&mut self, asked: Result<Instant, NotUntil>, now: Instant) -> Option<Verdict> {
        let reservation_retry = std::mem::take(&mut self.reservation_retry);
        let until = match asked {
            Ok(at) if at <= now => return None,
            Ok(at) => {
                self.reservation_held = true;
                at
            }
            Err(NotUntil { until }) => {
                self.reservation_retry = true;
                until
            }
        };
        self.counts.throttled += u64::from(!reservation_retry);
        self.wait_until = Some(until);
        self.deadline_changed = true;
        Some(Verdict::Wait)
    }

    /// Gives back the cell that is reserved for a message that waits.
    pub(super) fn refund_message(&mut self) {
        if std::mem::take(&mut self.reservation_held)
            && let Some(messages) = &self.messages
        {
            messages.refund();
        }
    }

    /// Returns the verdict on `n` bytes of a data frame that the inspector has accepted.
    fn pass_data<const IS_RARE: bool>(&mut self, from: Side, n: usize, now: Instant) -> Verdict {
        let output_closed = self.peer(from.other()).output_closed();
        if IS_RARE {
            self.pass_by_rare_limits(from, n, now);
        }
        let peer = self.peer_mut(from);
        if peer.discarding_message || output_closed {
            peer.mid_frame = false;
            return Verdict::Discard(n);
        }
        peer.mid_frame = !peer.inspector.at_boundary();
        self.data_passed = now;
        self.counts.of(from).bytes += n as u64;
        Verdict::Forward(n)
    }

    fn judge_control(
        &mut self,
        from: Side,
        header: &Header,
        bytes: &[u8],
        now: Instant,
    ) -> Result<Verdict, CloseReason> {
        let output_closed = self.peer(from.other()).output_closed();
        let is_answered = !output_closed || self.is_upstream_lost();
        if from == Side::Client && is_answered && header.opcode != Opcode::Close && !self.is_owed(header.opcode) {
            self.count_overhead(now)?;
        }
        let mut plain = [0; CONTROL_MAX_BYTES];
        let payload = bytes.get(header.len..).unwrap_or_default();
        let len = usize::try_from(header.payload_len).unwrap_or(usize::MAX).min(payload.len()).min(plain.len());
        let plain = &mut plain[..len];
        plain.copy_from_slice(&payload[..len]);
        apply_mask(plain, header.mask.unwrap_or_default(), 0);

        let whole = header.len + len;
        let ours = match header.opcode {
            Opcode::Close => {
                let close = Close::parse(plain).map_err(|violation| CloseReason::Violation(from, violation))?;
                self.receive_close(from, close.code, now);
                false
            }
            Opcode::Pong => self.is_own_pong(plain),
            _ => false,
        };
        if output_closed && from == Side::Client {
            self.answer_for_upstream(header.opcode, plain);
        }
        // A pending Close of ours to the other side replaces this one, which only answers our Close to this side.
        let ours = ours || (header.opcode == Opcode::Close && self.peer(from.other()).pending_close.is_some());
        if output_closed || ours {
            return Ok(Verdict::Discard(whole));
        }
        if header.opcode == Opcode::Close {
            self.peer_mut(from.other()).close_sent = true;
        }
        if header.opcode == Opcode::Ping && from == Side::Upstream {
            self.pongs_owed = self.pongs_owed.saturating_add(1);
        }
        if self.has_rare_limits() {
            self.charge_control(from, whole, now);
        }
        self.counts.of(from).bytes += whole as u64;
        Ok(Verdict::Forward(whole))
    }

    /// Whether the client owes this frame: a pong for a ping, ours or the upstream's. Reduces the number of owed pongs.
    fn is_owed(&mut self, opcode: Opcode) -> bool {
        let owed = opcode == Opcode::Pong && self.pongs_owed > 0;
        self.pongs_owed -= u32::from(owed);
        owed
    }

    fn receive_close(&mut self, from: Side, code: Option<CloseCode>, now: Instant) {
        self.peer_mut(from).input = Input::Closed;
        self.outcome.get_or_insert(Outcome { by: ClosedBy::from(from), code, cause: CloseReason::Closed });
        self.start_closing(now);
    }

    /// Whether the payload is that of a pong to one of our pings, the last one or an earlier one.
    fn is_own_pong(&self, payload: &[u8]) -> bool {
        match payload.split_first_chunk::<4>() {
            Some((tag, count)) if *tag == self.ping_tag => {
                <[u8; 4]>::try_from(count).is_ok_and(|count| (1..=self.pings).contains(&u32::from_be_bytes(count)))
            }
            _ => false,
        }
    }
}
