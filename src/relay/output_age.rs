//! How long data waits for a client, and how many messages were dropped for it.

use serde::{Deserialize, Serialize};

use super::peer_io::PeerIo;
use super::stream::Stream;

/// The state of a client that is, or was, slower than its upstream.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct SlowClient {
    /// The position in the client's output whose age is measured.
    mark: Option<Mark>,
    /// The number of bytes that the client's kernel had acknowledged when the mark was set.
    acknowledged: u64,
    /// The number of messages that were dropped.
    pub dropped: u64,
}

/// A position in the output of a side.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Mark {
    /// Behind this many bytes, of which the kernel has not taken all.
    Queued(u64),
    /// The side's kernel has to acknowledge this many bytes.
    Sent(u64),
}

/// The result of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// The same data waits as before.
    Older,
    /// Other data waits since now.
    New,
    /// No data waits.
    None,
}

impl SlowClient {
    /// Measures how long data has waited for the client: from the moment at which its socket took no more, until its
    /// kernel has acknowledged all bytes up to then. Then the next measurement begins, if the client is blocked again.
    /// To be called whenever the client accepts bytes again, since bytes that are written later do not count.
    pub fn measure(&mut self, client: &PeerIo<dyn Stream + '_>) -> Age {
        if self.mark.as_mut().is_some_and(|mark| !mark.is_passed(client)) {
            return Age::Older;
        }
        self.mark = client.is_blocked().then(|| Mark::Queued(client.output_end()));
        self.acknowledged = client.acknowledged().map_or(u64::MAX, |(acknowledged, _)| acknowledged);
        if self.mark.is_some() { Age::New } else { Age::None }
    }

    /// Whether the client's kernel has acknowledged bytes since the measurement began.
    pub fn has_read(&self, client: &PeerIo<dyn Stream + '_>) -> bool {
        client.acknowledged().is_some_and(|(acknowledged, _)| acknowledged > self.acknowledged)
    }
}

impl Mark {
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
