//! The frames of an operator's commands: messages for the client, and the Close that ends the session.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;

use crate::ws::code::CloseCode;
use crate::ws::frame::{Message, truncate_reason};

/// The maximum number of messages that wait to be sent in a session.
pub const QUEUED_MESSAGES_MAX: usize = 16;
/// The maximum number of payload bytes of these messages.
pub const QUEUED_MAX_BYTES: usize = 1 << 20;

/// The error for a message that is not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// [`QUEUED_MESSAGES_MAX`] or [`QUEUED_MAX_BYTES`] would be exceeded. A message of more bytes never fits.
    QueueFull,
    /// The session is closing or over, or nothing can be sent to the client.
    Closing,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QueueFull => "too many messages wait to be sent",
            Self::Closing => "the session is closing",
        })
    }
}

impl Error for SendError {}

/// The code and the reason of the Close that a command asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandedClose {
    /// The code, which may be sent.
    pub code: CloseCode,
    /// The reason, which fits into a Close.
    pub reason: Box<str>,
}

impl CommandedClose {
    /// Replaces a code that must not be sent, and truncates the reason.
    pub fn new(code: CloseCode, reason: &str) -> Self {
        let code = if code.may_be_sent() { code } else { CloseCode::POLICY_VIOLATION };
        Self { code, reason: truncate_reason(reason).into() }
    }
}

/// Allocated only in sessions that got a command to close or to send.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// The Close with which the session ends.
    pub close: Option<CommandedClose>,
    /// The messages for the client, in their order.
    messages: VecDeque<Message>,
    /// The payload bytes of these messages.
    bytes: usize,
}

impl Outbox {
    /// Appends a message.
    pub fn push(&mut self, message: Message) -> Result<(), SendError> {
        let bytes = self.bytes.saturating_add(message.payload().len());
        if self.messages.len() >= QUEUED_MESSAGES_MAX || bytes > QUEUED_MAX_BYTES {
            return Err(SendError::QueueFull);
        }
        self.bytes = bytes;
        self.messages.push_back(message);
        Ok(())
    }

    /// Takes the first message.
    pub fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes = self.bytes.saturating_sub(message.payload().len());
        Some(message)
    }

    /// Drops all messages.
    pub fn drop_messages(&mut self) {
        self.messages = VecDeque::new();
        self.bytes = 0;
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.close.is_none() && self.messages.is_empty()
    }

    /// Returns the Close and the messages.
    pub fn into_parts(self) -> (Option<CommandedClose>, Vec<Message>) {
        (self.close, self.messages.into())
    }

    /// The inverse of [`Outbox::into_parts`]; `None` if there is nothing to send.
    pub fn from_parts(close: Option<CommandedClose>, messages: Vec<Message>) -> Option<Box<Self>> {
        let bytes = messages.iter().map(|message| message.payload().len()).sum();
        let outbox = Self { close, messages: messages.into(), bytes };
        (!outbox.is_empty()).then(|| Box::new(outbox))
    }
}
