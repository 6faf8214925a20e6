//! The frames of an operator's commands: messages for the client, and the Close that ends the session.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::ws::code::CloseCode;
use crate::ws::frame::{Message, truncate_reason};

/// The maximum number of queued messages in a session.
pub const QUEUED_MESSAGES_MAX: usize = 16;
/// The maximum number of payload bytes of the queued messages.
pub const QUEUED_MAX_BYTES: usize = 1 << 20;

/// The time within which a queued message must be sent. It is dropped after it.
pub const QUEUED_MAX_AGE: Duration = Duration::from_secs(5);

/// The reason for which a message is not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// [`QUEUED_MESSAGES_MAX`] or [`QUEUED_MAX_BYTES`] would be exceeded. A larger message is never queued.
    QueueFull,
    /// The session is closing or has ended, or nothing can be sent to the client.
    Closing,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QueueFull => "the message queue is full",
            Self::Closing => "the session is closing",
        })
    }
}

impl Error for SendError {}

/// The code and the reason of the Close of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandedClose {
    /// A code that may be sent.
    pub code: CloseCode,
    /// A reason that fits into a Close.
    pub reason: Box<str>,
}

impl CommandedClose {
    /// Replaces a code that must not be sent with 1008, and truncates the reason.
    pub fn new(code: CloseCode, reason: &str) -> Self {
        let code = if code.may_be_sent() { code } else { CloseCode::POLICY_VIOLATION };
        Self { code, reason: truncate_reason(reason).into() }
    }
}

/// A queued message, and the time at which it is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Queued {
    pub message: Message,
    pub expires: Instant,
}

/// The queued frames. Only sessions that received a command to close or to send allocate this.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// The Close with which the session ends.
    pub close: Option<CommandedClose>,
    /// The messages for the client, in order.
    messages: VecDeque<Queued>,
    /// The payload bytes of these messages.
    bytes: usize,
    /// The number of messages that were dropped and not reported.
    undelivered: u32,
}

impl Outbox {
    /// Appends a message that expires at this time, not before the messages in front of it.
    pub fn push(&mut self, message: Message, expires: Instant) -> Result<(), SendError> {
        let bytes = self.bytes.saturating_add(message.payload().len());
        if self.messages.len() >= QUEUED_MESSAGES_MAX || bytes > QUEUED_MAX_BYTES {
            return Err(SendError::QueueFull);
        }
        self.bytes = bytes;
        self.messages.push_back(Queued { message, expires });
        Ok(())
    }

    /// Removes and returns the first message.
    pub fn pop(&mut self) -> Option<Message> {
        let Queued { message, .. } = self.messages.pop_front()?;
        self.bytes = self.bytes.saturating_sub(message.payload().len());
        Some(message)
    }

    /// Returns when the first message expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.messages.front().map(|first| first.expires)
    }

    /// Drops the messages that have expired.
    pub fn drop_expired(&mut self, now: Instant) {
        while self.next_expiry().is_some_and(|expires| expires <= now) {
            self.pop();
            self.undelivered = self.undelivered.saturating_add(1);
        }
    }

    /// Drops all messages.
    pub fn drop_messages(&mut self) {
        let dropped = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        self.undelivered = self.undelivered.saturating_add(dropped);
        self.messages = VecDeque::new();
        self.bytes = 0;
    }

    /// Returns the number of messages that were dropped since the last call.
    pub fn take_undelivered(&mut self) -> u32 {
        std::mem::take(&mut self.undelivered)
    }

    /// Whether it holds a Close or messages.
    pub fn has_frames(&self) -> bool {
        self.close.is_some() || !self.messages.is_empty()
    }

    /// Whether it holds neither frames nor a number to report.
    pub fn is_empty(&self) -> bool {
        !self.has_frames() && self.undelivered == 0
    }

    /// Returns the Close and the messages.
    pub fn into_parts(self) -> (Option<CommandedClose>, Vec<Queued>) {
        (self.close, self.messages.into())
    }

    /// Creates an outbox from the result of [`Outbox::into_parts`]. Returns `None` if there is nothing to send.
    pub fn from_parts(close: Option<CommandedClose>, messages: Vec<Queued>) -> Option<Box<Self>> {
        let bytes = messages.iter().map(|queued| queued.message.payload().len()).sum();
        let outbox = Self { close, messages: messages.into(), bytes, undelivered: 0 };
        (!outbox.is_empty()).then(|| Box::new(outbox))
    }
}
