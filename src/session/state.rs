//! The state of a session as plain data, from which another process can continue the session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Session;
use super::lifetime::{Lifetime, Loss};
use super::metering::{ByteMeterState, ByteMeters, Metering, ReportCounts, Reports};
use super::outbox::{CommandedClose, Outbox, Queued};
use super::outcome::{CloseReason, ClosedBy, Outcome, SessionStats};
use super::peer::{Input, Peer};
use super::rules::{message_limiter, on_excess, rules};
use super::side::Side;
use crate::balance::UpstreamLoss;
use crate::policy::counters::SharedCounts;
use crate::policy::expiry::Expiry;
use crate::policy::limits::Limits;
use crate::policy::quota::{Count, LocalCount, LocalLimiter};
use crate::ws::code::CloseCode;
use crate::ws::frame::Message;
use crate::ws::inspector::{Inspector, InspectorState};

/// A point in time, in nanoseconds after the export; negative if it is earlier. Times more than 292 years away
/// saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RelativeTime(pub i64);

impl RelativeTime {
    /// Converts a point in time, relative to `now`.
    pub fn since(at: Instant, now: Instant) -> Self {
        let nanos = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
        Self(match at.checked_duration_since(now) {
            Some(after) => nanos(after),
            None => -nanos(now.saturating_duration_since(at)),
        })
    }

    /// Returns the point in time, or the one closest to it that an `Instant` can represent.
    pub fn to_instant(self, now: Instant) -> Instant {
        let mut span = Duration::from_nanos(self.0.unsigned_abs());
        loop {
            let at = if self.0 < 0 { now.checked_sub(span) } else { now.checked_add(span) };
            match at {
                Some(at) => return at,
                None => span /= 2,
            }
        }
    }
}

/// The state of a session between two calls, when its actions have been taken.
///
/// It does not include the limits: the importing process has its own. Nor does it include the bytes that the caller
/// keeps after [`Verdict::More`](super::Verdict::More) or [`Verdict::Wait`](super::Verdict::Wait).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination with the others")]
pub struct SessionState {
    /// Whether permessage-deflate was negotiated.
    pub compressed: bool,
    /// Whether the text of the client is checked.
    pub check_utf8: bool,
    /// The count of the overhead quota, as [`Count::export`] returns it.
    pub overhead: i64,
    /// The byte quotas of the client and of the upstream, if there are any. Their counts include reserved bytes.
    pub bytes: Option<[ByteMeterState; 2]>,
    /// The actions that limits would have taken.
    pub reports: Option<ReportState>,
    /// The count of the message quota, if there is one. It includes the cell of a message that waits.
    pub message_count: Option<i64>,
    /// The client.
    pub client: PeerState,
    /// The upstream.
    pub upstream: PeerState,
    /// When the session ends because its token expires, and the code of its Close.
    pub expires: Option<(RelativeTime, CloseCode)>,
    /// The time of the 101.
    pub opened_at: RelativeTime,
    /// The random number by which the maximum age is shortened.
    pub age_jitter: u16,
    /// When the session ends because the process drains.
    pub drain_at: Option<RelativeTime>,
    /// How the client is closed if the upstream is lost.
    pub on_loss: UpstreamLoss,
    /// The loss of the upstream, until the client is closed.
    pub loss: Option<LossState>,
    /// Since when data waits for the client, where that closes it.
    pub behind_since: Option<RelativeTime>,
    /// When data last passed in either direction.
    pub data_passed: RelativeTime,
    /// Until when the client and the upstream are not read because they exceeded their rate.
    pub wait_until: [Option<RelativeTime>; 2],
    /// Whether a cell of the message quota is reserved for the message that waits.
    pub reservation_held: bool,
    /// Whether the message that waits has no cell yet and was counted as throttled.
    pub reservation_retry: bool,
    /// How the session ends, if it is closing or has ended.
    pub outcome: Option<Outcome>,
    /// When the closing handshake began.
    pub closing_since: Option<RelativeTime>,
    /// Whether the closing handshake has timed out.
    pub over: bool,
    /// Whether the session has ended.
    pub ended: bool,
    /// The Close of a command.
    pub close: Option<CommandedClose>,
    /// The messages queued for the client, in order, each with the time at which it is given up.
    pub messages: Vec<(Message, RelativeTime)>,
    /// The tag of the session's pings.
    pub ping_tag: [u8; 4],
    /// The number of pings sent.
    pub pings: u32,
    /// The number of pings sent to the client, ours and the upstream's, that it has not answered.
    pub pongs_owed: u32,
    /// The forwarded messages and bytes.
    pub counts: SessionStats,
}

/// The state of one side of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination with the others")]
pub struct PeerState {
    /// The frame and the message that it is sending.
    pub inspector: InspectorState,
    /// The input that is still expected from it.
    pub input: Input,
    /// Whether the message that it is sending is dropped.
    pub discarding_message: bool,
    /// Whether a part of a frame that it is sending has been forwarded.
    pub mid_frame: bool,
    /// Whether it has been sent a Close.
    pub close_sent: bool,
    /// The reason for the Close that it is to be sent.
    pub pending_close: Option<CloseReason>,
    /// Whether it is to be pinged.
    pub ping_due: bool,
    /// When it was pinged, if nothing was received from it since.
    pub pinged: Option<RelativeTime>,
    /// When something was last received from it.
    pub last_activity: RelativeTime,
    /// Since when it accepts none of the bytes queued for it.
    pub blocked_since: Option<RelativeTime>,
    /// Since when nothing can be sent to it.
    pub write_closed_since: Option<RelativeTime>,
}

/// The loss of an upstream whose client is not closed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossState {
    /// The side that will have ended the session.
    pub by: ClosedBy,
    /// The reason.
    pub cause: CloseReason,
    /// When the client is closed.
    pub close_at: RelativeTime,
}

impl LossState {
    /// A pong that is due is left out: it is sent before an export, or never because a frame is incomplete.
    fn export(Loss { by, cause, close_at, .. }: Loss, now: Instant) -> Self {
        Self { by, cause, close_at: RelativeTime::since(close_at, now) }
    }

    fn import(self, now: Instant) -> Loss {
        let Self { by, cause, close_at } = self;
        let close_at = close_at.to_instant(now);
        Loss { by, cause, close_at, is_upstream_told: true, is_announced: true, pong: None }
    }
}

/// The actions that the limits of a session would have taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportState {
    /// The counts, which the caller has taken.
    pub counts: ReportCounts,
    /// When data last passed, in a session that was reported as idle since then.
    pub idle_since: Option<RelativeTime>,
}

impl ReportState {
    fn export(reports: &Reports, now: Instant) -> Self {
        Self { counts: reports.counts, idle_since: relative(reports.idle_since, now) }
    }

    fn import(self, now: Instant) -> Reports {
        let Self { counts, idle_since } = self;
        Reports { counts, taken: counts, idle_since: absolute(idle_since, now) }
    }
}

impl PeerState {
    fn export(peer: Peer, now: Instant) -> Self {
        let Peer {
            inspector,
            input,
            discarding_message,
            mid_frame,
            close_sent,
            pending_close,
            ping_due,
            pinged,
            last_activity,
            blocked_since,
            write_closed_since,
        } = peer;
        Self {
            inspector: inspector.export(),
            input,
            discarding_message,
            mid_frame,
            close_sent,
            pending_close,
            ping_due,
            pinged: relative(pinged, now),
            last_activity: RelativeTime::since(last_activity, now),
            blocked_since: relative(blocked_since, now),
            write_closed_since: relative(write_closed_since, now),
        }
    }

    fn import(self, inspector: impl FnOnce(InspectorState) -> Inspector, now: Instant) -> Peer {
        let Self {
            inspector: state,
            input,
            discarding_message,
            mid_frame,
            close_sent,
            pending_close,
            ping_due,
            pinged,
            last_activity,
            blocked_since,
            write_closed_since,
        } = self;
        Peer {
            inspector: inspector(state),
            input,
            discarding_message,
            mid_frame,
            close_sent,
            pending_close,
            ping_due,
            pinged: absolute(pinged, now),
            last_activity: last_activity.to_instant(now),
            blocked_since: absolute(blocked_since, now),
            write_closed_since: absolute(write_closed_since, now),
        }
    }
}

impl Session {
    /// Returns the state as plain data.
    pub fn export(self, now: Instant) -> SessionState {
        let Self {
            limits: _,
            messages: limiter,
            metering,
            on_excess: _,
            is_reporting: _,
            has_new_reports: _,
            overhead,
            client,
            upstream,
            lifetime,
            data_passed,
            wait_until,
            reservation_held,
            reservation_retry,
            deadline_changed: _,
            outcome,
            closing_since,
            over,
            ended,
            action_due: _,
            outbox,
            ping_tag,
            pings,
            pongs_owed,
            counts,
        } = self;
        let rules = *client.inspector.rules();
        let metering = metering.map(|metering| *metering).unwrap_or_default();
        let Lifetime { expires, opened_at, age_jitter, drain_at, on_loss, loss, behind_since } = *lifetime;
        let (close, messages) = outbox.map(|outbox| outbox.into_parts()).unwrap_or_default();
        SessionState {
            compressed: rules.compressed,
            check_utf8: rules.check_utf8,
            overhead: overhead.into_count().export(now),
            wait_until: [wait_until, metering.upstream_wait_until].map(|at| relative(at, now)),
            bytes: metering.bytes.map(|bytes| bytes.export(now)),
            reports: metering.reports.map(|reports| ReportState::export(&reports, now)),
            message_count: limiter.map(|limiter| limiter.count().export(now)),
            client: PeerState::export(client, now),
            upstream: PeerState::export(upstream, now),
            expires: expires.map(|Expiry { at, code }| (RelativeTime::since(at, now), code)),
            opened_at: RelativeTime::since(opened_at, now),
            age_jitter,
            drain_at: relative(drain_at, now),
            on_loss,
            loss: loss.map(|loss| LossState::export(loss, now)),
            behind_since: relative(behind_since, now),
            data_passed: RelativeTime::since(data_passed, now),
            reservation_held,
            reservation_retry,
            outcome,
            closing_since: relative(closing_since, now),
            over,
            ended,
            close,
            messages: messages.into_iter().map(|queued| queued.export(now)).collect(),
            ping_tag,
            pings,
            pongs_owed,
            counts,
        }
    }

    /// Continues an exported session. `shared` are the counts of messages and bytes that the session shares with
    /// others, if any. Without them the session continues with the exported counts. The limits may differ from the
    /// exported session's: they apply as with [`Session::set_limits`], except that a message that waits keeps its
    /// reservation.
    pub fn import(state: SessionState, limits: Arc<Limits>, shared: SharedCounts, now: Instant) -> Self {
        let SessionState { compressed, check_utf8, overhead, client, upstream, .. } = state;
        let peer = |side, state: PeerState| {
            let rules = rules(side, &limits, compressed, check_utf8);
            state.import(|state| Inspector::import(rules, state), now)
        };
        let own = || state.message_count.map(|count| Count::import(count, now)).unwrap_or_default();
        let messages = message_limiter(&limits, shared.messages.unwrap_or_else(|| Arc::new(own())));
        let own = || state.bytes.map(|states| states.map(|state| Arc::new(Count::import(state.count, now))));
        let mut bytes = ByteMeters::new(&limits, shared.bytes.or_else(own));
        if let (Some(bytes), Some(states)) = (&mut bytes, &state.bytes) {
            bytes.restore(states, now);
        }
        let [wait_until, upstream_wait_until] = state.wait_until.map(|at| absolute(at, now));
        let reports = state.reports.map(|reports| reports.import(now));
        let metering = Metering { bytes, reports, upstream_wait_until };
        Self {
            overhead: LocalLimiter::new(limits.overhead, LocalCount::import(overhead, now)),
            client: peer(Side::Client, client),
            upstream: peer(Side::Upstream, upstream),
            on_excess: on_excess(&limits, compressed),
            is_reporting: limits.is_reporting(),
            has_new_reports: false,
            messages,
            metering: metering.boxed(limits.is_reporting()),
            limits,
            lifetime: Box::new(Lifetime {
                expires: state.expires.map(|(at, code)| Expiry { at: at.to_instant(now), code }),
                opened_at: state.opened_at.to_instant(now),
                age_jitter: state.age_jitter,
                drain_at: absolute(state.drain_at, now),
                on_loss: state.on_loss,
                loss: state.loss.map(|loss| loss.import(now)),
                behind_since: absolute(state.behind_since, now),
            }),
            data_passed: state.data_passed.to_instant(now),
            wait_until,
            reservation_held: state.reservation_held,
            reservation_retry: state.reservation_retry,
            deadline_changed: true,
            outcome: state.outcome,
            closing_since: absolute(state.closing_since, now),
            over: state.over,
            ended: state.ended,
            action_due: true,
            outbox: Outbox::from_parts(state.close, state.messages.into_iter().map(queued(now)).collect()),
            ping_tag: state.ping_tag,
            pings: state.pings,
            pongs_owed: state.pongs_owed,
            counts: state.counts,
        }
    }
}

impl Queued {
    fn export(self, now: Instant) -> (Message, RelativeTime) {
        (self.message, RelativeTime::since(self.expires, now))
    }
}

fn queued(now: Instant) -> impl Fn((Message, RelativeTime)) -> Queued {
    move |(message, expires)| Queued { message, expires: expires.to_instant(now) }
}

fn relative(at: Option<Instant>, now: Instant) -> Option<RelativeTime> {
    at.map(|at| RelativeTime::since(at, now))
}

fn absolute(at: Option<RelativeTime>, now: Instant) -> Option<Instant> {
    at.map(|at| at.to_instant(now))
}
