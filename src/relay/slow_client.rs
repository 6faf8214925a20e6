//! What the relay does for a client that is slower than its upstream: it measures how long data waits, and queues and
//! drops messages.

use std::time::Instant;

use super::Relay;
use super::peer_io::PeerIo;
use super::stream::Stream;
use crate::session::Side;
use crate::session::backlog::Backlog;

/// The state of a client that is, or was, slower than its upstream.
#[derive(Debug, Default)]
pub(super) struct SlowClient {
    /// The position in the client's output whose age is measured.
    mark: Option<Mark>,
    /// The number of bytes that the client's kernel had acknowledged when the mark was set.
    acknowledged: u64,
    /// The number of messages that were dropped.
    dropped: u64,
}

/// A position in the output of a side.
#[derive(Debug, Clone, Copy)]
enum Mark {
    /// Behind this many bytes, of which the kernel has not taken all.
    Queued(u64),
    /// The side's kernel has to acknowledge this many bytes.
    Sent(u64),
}

impl Mark {
    /// Marks the end of all output of a side.
    fn at_end(side: &PeerIo<dyn Stream + '_>) -> Self {
        Self::Queued(side.output_end())
    }

    /// Whether the bytes in front of the mark have reached the side. A Unix socket reports no bytes, so it counts as
    /// reached when the kernel has taken them.
    fn is_passed(&mut self, side: &PeerIo<dyn Stream + '_>) -> bool {
        if let Self::Queued(end) = *self {
            if !side.is_written(end) {
                return false;
            }
            *self = Self::Sent(side.acknowledged().map_or(0, |(_, written)| written));
        }
        let Self::Sent(end) = *self else { return false };
        side.acknowledged().is_none_or(|(acknowledged, _)| acknowledged >= end)
    }
}

impl<C: Stream + 'static, U: Stream + 'static> Relay<C, U> {
    /// Measures how long data has waited for the client: from the moment at which its socket took no more, until its
    /// kernel has acknowledged all bytes up to then. Then the next measurement begins, if the client is blocked again.
    #[cold]
    pub(super) fn measure_client(&mut self, now: Instant) {
        let slow = self.slow.get_or_insert_default();
        let client: &PeerIo<dyn Stream> = &self.client;
        if slow.mark.as_mut().is_some_and(|mark| !mark.is_passed(client)) {
            return;
        }
        slow.mark = client.is_blocked().then(|| Mark::at_end(client));
        slow.acknowledged = client.acknowledged().map_or(u64::MAX, |(acknowledged, _)| acknowledged);
        if slow.mark.is_some() {
            self.session.on_client_behind(now);
        } else {
            self.session.on_client_caught_up();
        }
    }

    /// Acts on data that has waited too long, unless the client has got it. A client whose kernel has acknowledged some
    /// bytes is slow; one that has not does not read at all, which is for [`Session::handle_timeout`] to judge.
    ///
    /// [`Session::handle_timeout`]: crate::session::Session::handle_timeout
    #[cold]
    pub(super) fn judge_slow_client(&mut self, now: Instant) {
        self.measure_client(now);
        let before = self.slow.as_ref().map_or(u64::MAX, |slow| slow.acknowledged);
        let reads = self.client.acknowledged().is_some_and(|(acknowledged, _)| acknowledged > before);
        if reads && self.session.is_client_overdue(now) {
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
        self.count_dropped(now);
        !is_full
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
