//! The buffers of one side as plain data, from which another process can continue the side.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use super::{Closing, PeerIo};
use crate::session::backlog::Backlog;

/// The state of one side without its stream.
#[derive(Debug, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination with the others")]
pub struct PeerIoState {
    unprocessed: Vec<u8>,
    reprocess: bool,
    out: Vec<u8>,
    backlog: Option<Box<Backlog>>,
    taken: u64,
    unflushed: bool,
    blocked_at: Option<NonZeroU64>,
    ended: bool,
    write_closed: bool,
    diverts: bool,
    read_closed: bool,
    acknowledged: Option<NonZeroU64>,
    /// Whether our direction is not shut down any more when the session is over.
    is_given_up: bool,
}

impl<S> PeerIo<S> {
    /// Returns the stream.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Returns the stream and the state of a side of a session that is not over.
    pub fn into_parts(self) -> (S, PeerIoState) {
        let Self {
            unprocessed,
            reprocess,
            out,
            backlog,
            taken,
            unflushed,
            blocked_at,
            ended,
            write_closed,
            diverts,
            read_closed,
            acknowledged,
            discarded: _,
            closing,
            stream,
        } = self;
        let state = PeerIoState {
            unprocessed,
            reprocess,
            out,
            backlog,
            taken,
            unflushed,
            blocked_at,
            ended,
            write_closed,
            diverts,
            read_closed,
            acknowledged,
            is_given_up: closing == Closing::Done,
        };
        (stream, state)
    }

    /// Continues a side.
    pub fn from_parts(stream: S, state: PeerIoState) -> Self {
        let PeerIoState {
            unprocessed,
            reprocess,
            out,
            backlog,
            taken,
            unflushed,
            blocked_at,
            ended,
            write_closed,
            diverts,
            read_closed,
            acknowledged,
            is_given_up,
        } = state;
        Self {
            unprocessed,
            reprocess,
            out,
            backlog,
            taken,
            unflushed,
            blocked_at,
            ended,
            write_closed,
            diverts,
            read_closed,
            acknowledged,
            discarded: 0,
            closing: if is_given_up { Closing::Done } else { Closing::Sending },
            stream,
        }
    }
}
