//! Serves a client that is slower than its upstream: ends its session when data waits too long, or drops messages.

use std::time::Instant;

use super::Relay;
use super::output_age::Age;
use super::peer_io::PeerIo;
use super::stream::Stream;
use crate::session::Side;
use crate::session::backlog::Backlog;

/// The bytes that the kernel may hold unsent for a client whose oldest messages are dropped, or that is closed when data
/// waits too long. Those are neither dropped nor counted as waiting, and by default they may be megabytes.
const UNSENT_MAX_BYTES: u32 = 64 * 1024;

impl<C: Stream + 'static, U: Stream + 'static> Relay<C, U> {
    /// Limits what waits in the kernel for a client that must not be slow.
    pub(super) fn limit_unsent(&self) {
        if self.session.backlog_max_bytes().is_some() || self.session.closes_slow_client() {
            self.client.limit_unsent(UNSENT_MAX_BYTES);
        }
    }

    /// Follows a client that is blocked and has accepted some bytes, or that is not blocked any more.
    #[cold]
    pub(super) fn follow_slow_client(&mut self, now: Instant) {
        self.count_dropped(now);
        if self.session.closes_slow_client() {
            self.measure_client(now);
        }
    }

    /// Measures how long data has waited for the client, and passes the result to the session.
    fn measure_client(&mut self, now: Instant) {
        let client: &PeerIo<dyn Stream> = &self.client;
        match self.slow.get_or_insert_default().measure(client) {
            Age::Older => {}
            Age::New => self.session.on_client_behind(now),
            Age::None => self.session.on_client_caught_up(),
        }
    }

    /// Acts on data that has waited too long, unless the client has got it. A client whose kernel has acknowledged some
    /// bytes is slow; one that has not does not read at all, and the session judges it by that.
    #[cold]
    pub(super) fn judge_slow_client(&mut self, now: Instant) {
        self.measure_client(now);
        let client: &PeerIo<dyn Stream> = &self.client;
        let has_read = self.slow.as_ref().is_some_and(|slow| slow.has_read(client));
        if has_read && self.session.is_client_overdue(now) {
            self.session.end_slow_client(now);
        }
    }

    /// Whether bytes from a side are read although the other side is blocked: those of the upstream, if the route drops
    /// the oldest messages and no other bytes fill the queue.
    #[cold]
    pub(super) fn queues(&mut self, from: Side, now: Instant) -> bool {
        let Some(max_bytes) = self.session.backlog_max_bytes().filter(|_| from == Side::Upstream) else { return false };
        let (frame_left, in_message) = (self.session.frame_left(from), self.session.is_upstream_in_message());
        let backlog = self.client.backlog(|| Backlog::new(max_bytes, frame_left, in_message));
        backlog.set_max_bytes(max_bytes);
        let is_full = backlog.is_full();
        self.follow_dropped_frame();
        self.count_dropped(now);
        !is_full
    }

    /// Reports to the session that the upstream's unfinished frame does not reach the client, so that a frame of our own
    /// may be sent to it.
    #[cold]
    pub(super) fn follow_dropped_frame(&mut self) {
        if self.client.dropped_frame_left() > 0 {
            self.session.on_frame_dropped();
        }
    }

    /// Counts the messages that were dropped. The first of a session is logged.
    #[cold]
    pub(super) fn count_dropped(&mut self, now: Instant) {
        let dropped = self.client.take_dropped();
        if dropped == 0 {
            return;
        }
        self.metrics.count_dropped(dropped);
        let slow = self.slow.get_or_insert_default();
        if slow.dropped == 0 {
            self.process.sessions.log_dropping(&self.facts.log_summary(), now);
        }
        slow.dropped = slow.dropped.saturating_add(dropped);
    }
}

impl<C, U> Relay<C, U> {
    /// Returns the number of messages that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.slow.as_ref().map_or(0, |slow| slow.dropped)
    }
}
