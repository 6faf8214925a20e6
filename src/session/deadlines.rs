//! The deadlines of a session: heartbeats, timeouts, token expiry, age, drain, end of the closing handshake.

use std::time::{Duration, Instant};

use super::Session;
use super::outcome::{CloseReason, ClosedBy};
use super::peer::Input;
use super::side::Side;
use crate::policy::limits::LimitKind;

impl Session {
    /// Returns when to call [`Session::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let mut earliest = self.wait_until;
        let mut add = |at: Option<Instant>| earliest = earliest.into_iter().chain(at).min();
        add(self.outbox.as_ref().and_then(|outbox| outbox.next_expiry()));
        add(self.wait_until(Side::Upstream));
        for side in Side::BOTH {
            add(self.stalled_at(side));
            add(self.last_words_at(side));
            add(self.frame_stalled_at(side));
        }
        if self.closing_since.is_some() {
            add(self.close_by());
        } else {
            add(self.expires_at());
            add(self.max_age_at());
            add(self.lifetime.drain_at);
            add(self.loss_at());
            add(self.behind_at());
            add(self.idle_at());
            add(self.heartbeat_at(Side::Client));
            add(self.heartbeat_at(Side::Upstream));
        }
        earliest
    }

    /// Returns the next deadline that an operator would ask about, with its name: when the session ends, or when a side
    /// is pinged or must have answered.
    pub fn next_deadline(&self) -> Option<(Instant, &'static str)> {
        let sides = |name: [&'static str; 2], at: fn(&Self, Side) -> Option<Instant>| {
            [(at(self, Side::Client), name[0]), (at(self, Side::Upstream), name[1])]
        };
        let open = [
            (self.expires_at(), "token_expires"),
            (self.max_age_at().filter(|_| !self.is_reporting), "max_session_age"),
            (self.lifetime.drain_at, "drain"),
            (self.idle_at().filter(|_| !self.is_reporting), "idle_timeout"),
            (self.loss_at(), "reconnect_spread"),
            (self.behind_at().filter(|_| !self.is_reporting), "slow_client"),
            (self.wait_until, "rate_allows"),
            (self.wait_until(Side::Upstream), "rate_allows"),
        ];
        let closing = self.closing_since.is_some();
        let always = [(self.close_by(), "close_timeout")];
        let always =
            always.into_iter().chain(sides(["client_write_timeout", "upstream_write_timeout"], Self::stalled_at));
        let always = always.chain(sides(["client_frame", "upstream_frame"], Self::frame_stalled_at));
        let open = open.into_iter().chain(sides(["client_ping", "upstream_ping"], Self::heartbeat_at));
        let all = always.chain(open.filter(|_| !closing));
        all.filter_map(|(at, name)| Some((at?, name))).min()
    }

    /// Whether [`Session::poll_timeout`] may have become earlier since the last call. Most frames delay the deadline or
    /// leave it unchanged, so the caller need not reset its timer after every frame.
    pub fn deadline_changed(&mut self) -> bool {
        std::mem::take(&mut self.deadline_changed)
    }

    /// Whether [`Session::handle_timeout`] would end the session because this side sent no bytes or accepted none.
    pub fn is_overdue(&self, side: Side, now: Instant) -> bool {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        due(self.stalled_at(side))
            || due(self.frame_stalled_at(side))
            || (self.closing_since.is_none() && (due(self.idle_at()) || self.is_pong_overdue(side, now)))
    }

    /// Whether [`Session::handle_timeout`] would end the session because this side has not answered a ping.
    pub fn is_pong_overdue(&self, side: Side, now: Instant) -> bool {
        let pinged = self.closing_since.is_none() && self.peer(side).pinged.is_some();
        pinged && self.heartbeat_at(side).is_some_and(|at| at <= now)
    }

    /// Pings a side, with or without heartbeats: the kernel of a side that has closed its connection answers with a
    /// reset.
    pub fn ping(&mut self, side: Side) {
        self.deadline_changed = true;
        self.action_due = true;
        self.peer_mut(side).ping_due = true;
    }

    /// Restarts the pong timeout of a side, because the ping has not reached it yet.
    pub fn extend_pong(&mut self, side: Side, now: Instant) {
        self.deadline_changed = true;
        let peer = self.peer_mut(side);
        peer.pinged = peer.pinged.map(|_| now);
    }

    /// Handles every deadline that has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.deadline_changed = true;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if let Some(outbox) = &mut self.outbox {
            outbox.drop_expired(now);
        }
        if self.is_reporting && self.closing_since.is_none() {
            if due(self.idle_at()) {
                self.report_idle();
            }
            if due(self.max_age_at()) {
                self.report(LimitKind::MaxSessionAge);
            }
            if due(self.behind_at()) {
                self.end_slow_client(now);
            }
        }
        for side in Side::BOTH {
            if due(self.wait_until(side)) {
                self.end_wait(side, now);
            }
            if due(self.last_words_at(side)) {
                self.on_disconnected(side, now);
            }
            if due(self.stalled_at(side)) {
                self.lose(side, ClosedBy::Tollgate, CloseReason::WriteStall(side), now);
            }
        }
        if self.closing_since.is_some() {
            if due(self.close_by()) {
                self.close_now();
            }
        } else if due(self.expires_at()) {
            self.end(ClosedBy::Tollgate, CloseReason::TokenExpired, now);
        } else if due(self.max_age_at()) {
            self.end(ClosedBy::Tollgate, CloseReason::MaxAge, now);
        } else if due(self.lifetime.drain_at) {
            self.end(ClosedBy::Tollgate, CloseReason::Drain, now);
        } else if due(self.loss_at()) {
            self.close_after_loss(now);
        } else if due(self.behind_at()) {
            self.end_slow_client(now);
        } else if due(self.idle_at()) {
            self.end(ClosedBy::Tollgate, CloseReason::IdleTimeout, now);
        } else {
            for side in Side::BOTH {
                if !due(self.heartbeat_at(side)) {
                    continue;
                }
                match self.peer(side).pinged {
                    None => self.ping(side),
                    Some(_) => self.end_silent(side, now),
                }
            }
        }
        // A ping that has just become due may have waited long enough already, if this call is late.
        if let Some(side) = Side::BOTH.into_iter().find(|side| due(self.frame_stalled_at(*side))) {
            self.end_silent(side, now);
        }
    }

    fn end_silent(&mut self, side: Side, now: Instant) {
        let cause = CloseReason::NoPong(side);
        match side {
            Side::Client => self.end(ClosedBy::Tollgate, cause, now),
            Side::Upstream => self.lose(side, ClosedBy::Tollgate, cause, now),
        }
    }

    /// Ends the delay of a side. Its silence does not count for the time in which it was not read.
    pub(super) fn end_wait(&mut self, side: Side, now: Instant) {
        self.set_wait(side, None);
        self.peer_mut(side).on_activity(now);
        self.data_passed = now;
    }

    /// Returns the deadline that the token sets.
    fn expires_at(&self) -> Option<Instant> {
        self.lifetime.expires.map(|expires| expires.at)
    }

    /// Returns when the session reaches its maximum age.
    fn max_age_at(&self) -> Option<Instant> {
        if self.is_reporting && self.has_reported(LimitKind::MaxSessionAge) {
            return None;
        }
        self.lifetime.opened_at.checked_add(self.limits.session_age_max(self.lifetime.age_jitter)?)
    }

    /// Returns the deadline of the closing handshake.
    fn close_by(&self) -> Option<Instant> {
        self.closing_since?.checked_add(self.limits.close_timeout)
    }

    /// Returns the deadline by which a side must accept some of the bytes queued for it.
    fn stalled_at(&self, side: Side) -> Option<Instant> {
        self.peer(side).blocked_since?.checked_add(self.limits.write_timeout)
    }

    /// Returns the deadline for the input of a side to which nothing can be sent.
    fn last_words_at(&self, side: Side) -> Option<Instant> {
        let peer = self.peer(side);
        peer.write_closed_since.filter(|_| peer.input == Input::Open)?.checked_add(self.limits.close_timeout)
    }

    /// Returns the deadline by which a side must continue its frame, if a ping to the other side waits for the end of that
    /// frame. Without it a side that stops there would hide that the other one is gone.
    fn frame_stalled_at(&self, from: Side) -> Option<Instant> {
        let (peer, other) = (self.peer(from), self.peer(from.other()));
        let unread = other.blocked_since.is_some() || self.waiting(from);
        let is_awaited = peer.mid_frame && peer.input == Input::Open && self.closing_since.is_none();
        if !other.ping_due || !is_awaited || unread {
            return None;
        }
        let interval = self.ping_interval(from.other())?;
        peer.last_activity.max(other.last_activity).checked_add(interval)?.checked_add(self.limits.pong_timeout)
    }

    /// Returns the idle deadline. A side that waits for its rate is not idle, nor is a client whose upstream is lost.
    fn idle_at(&self) -> Option<Instant> {
        let waits = Side::BOTH.into_iter().any(|side| self.waiting(side));
        if waits || self.lifetime.loss.is_some() || (self.is_reporting && self.is_idle_reported()) {
            return None;
        }
        self.data_passed.checked_add(self.limits.idle_timeout?)
    }

    fn ping_interval(&self, side: Side) -> Option<Duration> {
        match side {
            Side::Client => self.limits.ping_interval,
            Side::Upstream => self.limits.upstream_ping_interval,
        }
    }

    /// Returns when to ping a side, or when the timeout of its pong ends.
    fn heartbeat_at(&self, side: Side) -> Option<Instant> {
        let (peer, other) = (self.peer(side), self.peer(side.other()));
        let interval = self.ping_interval(side)?;
        let unread = other.blocked_since.is_some() || self.waiting(side);
        if unread || peer.ping_due || peer.blocked_since.is_some() || peer.is_write_closed() {
            return None;
        }
        match peer.pinged {
            Some(pinged) => pinged.checked_add(self.limits.pong_timeout),
            None => peer.last_activity.checked_add(interval),
        }
    }
}
