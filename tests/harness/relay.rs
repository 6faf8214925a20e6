//! A relay in memory that drives a [`Session`] like the real one, in virtual time.

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tollgate::balance::UpstreamLoss;
use tollgate::policy::counters::SharedCounts;
use tollgate::policy::expiry::Expiry;
use tollgate::policy::limits::{
    ByteQuota, LimitMode, Limits, MessageQuota, OnExcess, OnSessionLimit, OnSlowClient, RateKey,
};
use tollgate::policy::quota::{Count, Limiter, Quota, Rate};
use tollgate::session::{Action, KEPT_MAX_BYTES, Message, Outcome, SendError, Session, SessionConfig, Side, Verdict};
use tollgate::ws::code::CloseCode;

use super::wire::{self, Frame};

/// The tag of the session's own pings.
pub const PING_TAG: [u8; 4] = *b"tag!";
/// The masking key of the session's own frames to the upstream.
const KEY: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
/// The maximum number of steps that a call may cause, in addition to those per byte. More steps indicate an endless
/// loop.
const STEPS_A_CALL: usize = 16;
const STEPS_A_BYTE: usize = 4;

/// The configuration of a session. If `messages` is absent, the limiter is made from the limits.
#[derive(Clone)]
pub struct Setup {
    pub limits: Limits,
    pub messages: Option<Arc<Limiter>>,
    pub expires_after: Option<Duration>,
    pub expiry_code: CloseCode,
    pub age_jitter: u16,
    pub compressed: bool,
    pub loss: UpstreamLoss,
    /// The time after which the client of a lost upstream is closed.
    pub loss_delay: Duration,
}

impl Setup {
    /// Returns a setup without limits or pings. Its timeouts are those that cannot be turned off.
    pub fn lenient() -> Self {
        let limits = Limits {
            mode: LimitMode::Enforce,
            bytes: None,
            messages: None,
            overhead: quota(1_000_000, 1_000_000),
            message_max_bytes: u64::MAX,
            frame_max_bytes: u64::MAX,
            upstream_message_max_bytes: None,
            sessions_per_subject: None,
            sessions_per_address: None,
            on_session_limit: OnSessionLimit::Refuse,
            idle_timeout: None,
            ping_interval: None,
            upstream_ping_interval: None,
            pong_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(30),
            on_slow_client: OnSlowClient::Block,
            check_utf8: false,
            max_session_age: None,
            requests: None,
            request_max_bytes: Some(1 << 20),
        };
        let expiry_code = CloseCode::POLICY_VIOLATION;
        Self {
            limits,
            messages: None,
            expires_after: None,
            expiry_code,
            age_jitter: 0,
            compressed: false,
            loss: UpstreamLoss::default(),
            loss_delay: Duration::ZERO,
        }
    }

    pub fn with(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    pub fn rate(self, per_second: u32, burst: u32, on_excess: OnExcess) -> Self {
        let messages = MessageQuota { quota: quota(per_second, burst), key: RateKey::Session, on_excess };
        self.with(|limits| limits.messages = Some(messages))
    }

    pub fn byte_rate(self, per_second: u32, burst: u32, on_excess: OnExcess) -> Self {
        let bytes = ByteQuota { quota: quota(per_second, burst), key: RateKey::Session, on_excess };
        self.with(|limits| limits.bytes = Some(bytes))
    }

    /// Lets the limits only report what they would do.
    pub fn reporting(self) -> Self {
        self.with(|limits| limits.mode = LimitMode::Report)
    }
}

pub fn quota(per_second: u32, burst: u32) -> Quota {
    let count = NonZeroU32::new(per_second).expect("a rate is not zero");
    let burst = NonZeroU32::new(burst).expect("a burst is not zero");
    Quota { rate: Rate { count, period: Duration::from_secs(1) }, burst }
}

/// The relay's state of one side.
#[derive(Default)]
pub struct Peer {
    /// The bytes that it sent and the session has not processed yet.
    unread: Vec<u8>,
    /// Whether the session needs more bytes than `unread` holds.
    needs_more: bool,
    /// All bytes that were sent to it.
    pub received: Vec<u8>,
    /// The ranges of `received` that hold frames of the session's own.
    pub ours: Vec<Range<usize>>,
    pub disconnected: bool,
    blocked_since: Option<Instant>,
    /// Whether it was blocked for longer than `write_timeout` and so counts as disconnected.
    pub stalled: bool,
}

pub struct Relay {
    pub session: Session,
    /// A session that receives the same calls as `session` and is never exported. It must make the same decisions.
    twin: Option<Box<Session>>,
    limits: Arc<Limits>,
    shared: SharedCounts,
    /// The messages for the client that the session accepted.
    pub queued: Vec<Message>,
    /// The number of these messages that were sent.
    pub sent: usize,
    /// The number of messages that the session has dropped.
    pub undelivered: usize,
    /// The size of the frames of the sent messages.
    pub sent_bytes: u64,
    /// The arguments of the first command to close.
    pub commanded: Option<(CloseCode, String)>,
    pub now: Instant,
    pub outcome: Option<Outcome>,
    pub ended_at: Option<Instant>,
    /// When the first reason to end the session became visible from outside.
    pub closing_since: Option<Instant>,
    client: Peer,
    upstream: Peer,
    /// The time of a timer that is reset only when the session reports that its deadline has changed.
    alarm: Option<Instant>,
    write_timeout: Duration,
    compressed: bool,
    loss_delay: Duration,
    steps_left: usize,
}

/// Returns the state that a session reports to its caller besides its verdicts and actions.
fn facts(session: &Session) -> impl PartialEq + std::fmt::Debug {
    let sides = Side::BOTH.map(|side| {
        (session.waiting(side), session.may_end_input(side), session.has_closed(side), session.is_disconnected(side))
    });
    (session.poll_timeout(), session.counts(), sides)
}

impl Relay {
    pub fn new(setup: Setup, now: Instant) -> Self {
        let Setup { limits, messages, expires_after, expiry_code, age_jitter, compressed, loss, loss_delay } = setup;
        let shared = messages.as_ref().map(|limiter| Arc::clone(limiter.count()));
        let shared = SharedCounts { messages: shared, bytes: None };
        let messages = messages.or_else(|| Some(Arc::new(Limiter::new(limits.messages?.quota))));
        let write_timeout = limits.write_timeout;
        let expires = expires_after.map(|after| Expiry { at: now + after, code: expiry_code });
        let limits = Arc::new(limits);
        let terms = SessionConfig {
            limits: Arc::clone(&limits),
            messages,
            bytes: None,
            expires,
            age_jitter,
            loss,
            compressed,
            ping_tag: PING_TAG,
        };
        Self {
            session: Session::new(terms, now),
            twin: None,
            limits,
            shared,
            queued: Vec::new(),
            sent: 0,
            undelivered: 0,
            sent_bytes: 0,
            commanded: None,
            now,
            outcome: None,
            ended_at: None,
            closing_since: None,
            client: Peer::default(),
            upstream: Peer::default(),
            alarm: None,
            write_timeout,
            compressed,
            loss_delay,
            steps_left: 0,
        }
    }

    /// Returns a relay whose session shares these counts of bytes with others.
    pub fn with_bytes(setup: Setup, counts: [Arc<Count>; 2], now: Instant) -> Self {
        let (limits, bytes) = (Arc::new(setup.limits.clone()), Some(counts));
        let (messages, expires, age_jitter, loss) = (None, None, 0, setup.loss);
        let (compressed, ping_tag) = (false, PING_TAG);
        let terms = SessionConfig { limits, messages, bytes, expires, age_jitter, loss, compressed, ping_tag };
        Self { session: Session::new(terms, now), ..Self::new(setup, now) }
    }

    /// Returns a relay that checks every decision against a twin of its session.
    pub fn with_twin(setup: Setup, now: Instant) -> Self {
        assert!(setup.messages.is_none(), "the twin needs a limiter of its own");
        let twin = Self::new(setup.clone(), now);
        Self { twin: Some(Box::new(twin.session)), ..Self::new(setup, now) }
    }

    /// Exports the session and imports it again, with the count of its limiter.
    pub fn reimport(&mut self) {
        let (now, limits) = (self.now, &self.limits);
        let terms = SessionConfig {
            limits: Arc::clone(limits),
            messages: None,
            bytes: None,
            expires: None,
            age_jitter: 0,
            loss: UpstreamLoss::default(),
            compressed: false,
            ping_tag: [0; 4],
        };
        let state = std::mem::replace(&mut self.session, Session::new(terms, now)).export(now);
        let again = Session::import(state.clone(), Arc::clone(limits), self.shared.clone(), now).export(now);
        assert_eq!(again, state);
        self.session = Session::import(state, Arc::clone(limits), self.shared.clone(), now);
        self.take_actions();
    }

    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.commanded.get_or_insert((code, reason.to_owned()));
        self.note_closing();
        self.call(|session, now| session.close(code, reason, now));
        self.pump();
    }

    pub fn revoke(&mut self, cause: tollgate::session::CloseReason) {
        self.note_closing();
        self.call(|session, now| session.revoke(cause, now));
        self.pump();
    }

    /// Replaces the limits. Messages counted against the old quota still count.
    pub fn set_limits(&mut self, limits: Limits) {
        let limits = Arc::new(limits);
        self.session.set_limits(Arc::clone(&limits), self.shared.clone(), self.now);
        if let Some(twin) = &mut self.twin {
            twin.set_limits(Arc::clone(&limits), SharedCounts::default(), self.now);
        }
        self.write_timeout = limits.write_timeout;
        self.limits = limits;
        self.call(|_, _| ());
        self.pump();
    }

    pub fn set_expiry(&mut self, after: Option<Duration>) {
        let expires = after.map(|after| Expiry { at: self.now + after, code: CloseCode::POLICY_VIOLATION });
        self.call(|session, _| {
            session.set_expiry(expires);
        });
    }

    pub fn send(&mut self, message: Message) -> Result<(), SendError> {
        self.steps_left += STEPS_A_CALL;
        let queued = self.session.send(message.clone(), self.now);
        if let Some(twin) = &mut self.twin {
            assert_eq!(twin.send(message.clone(), self.now), queued);
        }
        if queued.is_ok() {
            self.queued.push(message);
        }
        self.take_actions();
        queued
    }

    /// Whether the client has received the whole of every message that has begun.
    pub fn client_is_between_messages(&self) -> bool {
        wire::ends_between_messages(&self.client.received, false, self.compressed)
    }

    /// Reports that writing to a side has failed.
    pub fn close_write(&mut self, side: Side) {
        self.call(|session, now| session.on_write_closed(side, now));
    }

    pub fn peer(&self, side: Side) -> &Peer {
        match side {
            Side::Client => &self.client,
            Side::Upstream => &self.upstream,
        }
    }

    fn peer_mut(&mut self, side: Side) -> &mut Peer {
        match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }

    /// Returns the frames that a side received; the last one may be partial.
    pub fn frames(&self, side: Side) -> Vec<Frame> {
        wire::decode(&self.peer(side).received, side == Side::Upstream, self.compressed)
    }

    /// Returns the bytes that a side received from the other side, without frames of the session's own.
    pub fn forwarded(&self, to: Side) -> Vec<u8> {
        let Peer { received, ours, .. } = self.peer(to);
        let mut forwarded = Vec::with_capacity(received.len());
        let mut at = 0;
        for range in ours {
            forwarded.extend_from_slice(&received[at..range.start]);
            at = range.end;
        }
        forwarded.extend_from_slice(&received[at..]);
        forwarded
    }

    pub fn is_blocked(&self, side: Side) -> bool {
        self.peer(side).blocked_since.is_some()
    }

    /// Receives bytes from a side.
    pub fn arrive(&mut self, from: Side, bytes: &[u8]) {
        let peer = self.peer_mut(from);
        if !peer.disconnected && !bytes.is_empty() {
            peer.unread.extend_from_slice(bytes);
            peer.needs_more = false;
            self.steps_left += STEPS_A_BYTE * bytes.len() + STEPS_A_CALL;
            self.pump();
        }
    }

    /// Ends the stream of a side.
    pub fn lose(&mut self, side: Side) {
        let peer = self.peer_mut(side);
        if !peer.disconnected {
            peer.disconnected = true;
            peer.blocked_since = None;
            peer.unread.clear();
            self.note_closing();
            self.call(|session, now| session.on_disconnected(side, now));
            self.pump();
        }
    }

    /// Reports that a side accepts no more bytes, or only some of the queued ones.
    pub fn block(&mut self, side: Side) {
        let now = self.now;
        let peer = self.peer_mut(side);
        if !peer.disconnected {
            peer.blocked_since = Some(now);
            self.call(|session, now| session.on_blocked(side, now));
        }
    }

    pub fn unblock(&mut self, side: Side) {
        if self.peer_mut(side).blocked_since.take().is_some() {
            self.call(|session, now| session.on_unblocked(side, now));
            self.pump();
        }
    }

    pub fn drain_in(&mut self, after: Duration) {
        let at = self.now + after;
        self.call(|session, _| session.drain_at(at));
    }

    /// Advances the time and handles each deadline on the way.
    pub fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while self.session.poll_timeout().is_some_and(|deadline| deadline <= until) {
            self.pass_to_deadline();
        }
        self.now = until;
    }

    /// Advances the time and handles deadlines only at the end, as a busy thread does.
    pub fn oversleep(&mut self, span: Duration) {
        self.now += span;
        if self.session.poll_timeout().is_some_and(|deadline| deadline <= self.now) {
            self.pass_to_deadline();
        }
    }

    /// Advances the time to the next deadline and handles it. Returns whether there was one.
    pub fn pass_to_deadline(&mut self) -> bool {
        let Some(deadline) = self.session.poll_timeout() else { return false };
        self.now = self.now.max(deadline);
        for side in Side::BOTH {
            let (now, write_timeout) = (self.now, self.write_timeout);
            let peer = self.peer_mut(side);
            peer.stalled |= peer.blocked_since.is_some_and(|since| since + write_timeout <= now);
        }
        self.call(Session::handle_timeout);
        self.pump();
        let next = self.session.poll_timeout();
        assert!(next.is_none_or(|next| next > self.now), "a passed deadline was not cleared");
        true
    }

    fn note_closing(&mut self) {
        self.closing_since.get_or_insert(self.now);
    }

    /// Calls the session and takes its actions, which is required after every call.
    pub fn call(&mut self, call: impl Fn(&mut Session, Instant)) {
        self.steps_left += STEPS_A_CALL;
        call(&mut self.session, self.now);
        if let Some(twin) = &mut self.twin {
            call(twin, self.now);
        }
        self.take_actions();
    }

    fn poll_action(&mut self) -> Option<Action> {
        let action = self.session.poll_action(self.now);
        if let Some(twin) = &mut self.twin {
            assert_eq!(twin.poll_action(self.now), action, "the action of the twin");
        }
        action
    }

    /// Forgets the messages that the session has dropped: the first of those that are queued.
    fn forget_undelivered(&mut self) {
        let dropped = self.session.take_undelivered();
        if let Some(twin) = &mut self.twin {
            assert_eq!(twin.take_undelivered(), dropped);
        }
        self.queued.drain(self.sent..self.sent + dropped as usize);
        self.undelivered += dropped as usize;
    }

    fn take_actions(&mut self) {
        self.forget_undelivered();
        self.take_each_action();
        self.forget_undelivered();
    }

    fn take_each_action(&mut self) {
        while let Some(action) = self.poll_action() {
            self.count_step();
            match action {
                Action::Send { to, frame } => {
                    let closes = frame.opcode() == tollgate::ws::frame::Opcode::Close;
                    let peer = self.peer_mut(to);
                    assert!(!peer.disconnected, "{frame:?} to a side that is disconnected");
                    let start = peer.received.len();
                    frame.encode((to == Side::Upstream).then_some(KEY), &mut peer.received);
                    peer.ours.push(start..peer.received.len());
                    if closes {
                        self.note_closing();
                    }
                }
                Action::SendMessage(message) => {
                    assert_eq!(self.queued.get(self.sent), Some(&message), "messages are sent once and in order");
                    self.sent += 1;
                    self.sent_bytes += message.encode().len() as u64;
                    assert!(self.client_is_between_messages(), "{message:?} inside a message");
                    let (client, bytes) = (&mut self.client, message.encode());
                    assert!(!client.disconnected, "{message:?} to a client that is disconnected");
                    let start = client.received.len();
                    client.received.extend_from_slice(&bytes);
                    client.ours.push(start..client.received.len());
                }
                Action::UpstreamLost(_) => {
                    let (at, now) = (self.now + self.loss_delay, self.now);
                    for session in [Some(&mut self.session), self.twin.as_deref_mut()].into_iter().flatten() {
                        session.close_client_at(at, now);
                    }
                }
                Action::End(outcome) => {
                    assert_eq!(self.outcome, None, "ended twice");
                    self.outcome = Some(outcome);
                    self.ended_at = Some(self.now);
                    assert_eq!(self.session.poll_timeout(), None, "a deadline after the end");
                }
            }
        }
        if let Some(twin) = &self.twin {
            assert_eq!(facts(twin), facts(&self.session), "the state of the twin");
        }
        let deadline = self.session.poll_timeout();
        if self.session.deadline_changed() {
            self.alarm = deadline;
        }
        let missed = deadline.is_some_and(|deadline| self.alarm.is_none_or(|alarm| alarm > deadline));
        assert!(!missed, "the deadline became earlier without notice");
    }

    fn count_step(&mut self) {
        assert!(self.steps_left > 0, "the session loops endlessly");
        self.steps_left -= 1;
    }

    /// Processes the input of both sides until neither makes progress.
    fn pump(&mut self) {
        while Side::BOTH.into_iter().any(|side| self.judge_next(side)) {}
    }

    /// Passes the unread bytes of a side to the session, if the side may be read now. Returns whether any were
    /// processed.
    fn judge_next(&mut self, from: Side) -> bool {
        let readable = !self.session.waiting(from) && !self.is_blocked(from.other()) && self.outcome.is_none();
        let peer = self.peer_mut(from);
        if !readable || peer.needs_more || peer.unread.is_empty() {
            return false;
        }
        self.count_step();
        let unread = std::mem::take(&mut self.peer_mut(from).unread);
        // Forwarded bytes precede the frames that they cause, so they are forwarded before the actions are taken.
        let step = self.session.receive(from, &unread, self.now);
        if let Some(twin) = &mut self.twin {
            assert_eq!(twin.receive(from, &unread, self.now), step, "the verdict of the twin");
        }
        let taken = match step {
            Verdict::Forward(n) | Verdict::Discard(n) => {
                assert!(0 < n && n <= unread.len(), "{step:?} of {} bytes", unread.len());
                n
            }
            Verdict::More | Verdict::Wait => 0,
        };
        if let Verdict::Forward(n) = step {
            let to = self.peer_mut(from.other());
            if !to.disconnected {
                to.received.extend_from_slice(&unread[..n]);
            }
        }
        self.peer_mut(from).unread = unread[taken..].to_vec();
        match step {
            Verdict::More => {
                assert!(unread.len() <= KEPT_MAX_BYTES, "{} bytes left with More", unread.len());
                self.peer_mut(from).needs_more = true;
            }
            Verdict::Wait => assert!(self.session.waiting(from), "Wait without waiting"),
            Verdict::Forward(_) | Verdict::Discard(_) => {}
        }
        self.take_actions();
        taken > 0
    }
}
