//! The frames of an operator's commands: messages for the client, and the Close that ends the session.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;

use crate::ws::code::CloseCode;
use crate::ws::frame::{Message, truncate_reason};

/// The maximum number of queued messages in a session.
pub const QUEUED_MESSAGES_MAX: usize = 16;
/// The maximum number of payload bytes of the queued messages.
pub const QUEUED_MAX_BYTES: usize = 1 << 20;

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
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// The queued frames. Only sessions that received a command to close or to send allocate this.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// The Close with which the session ends.
    pub close: Option<CommandedClose>,
    /// The messages for the client, in order.
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

    /// Removes and returns the first message.
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

    /// Whether it holds neither a Close nor messages.
    pub fn is_empty(&self) -> bool {
        self.close.is_none() && self.messages.is_empty()
    }

    /// Returns the Close and the messages.
    pub fn into_parts(self) -> (Option<CommandedClose>, Vec<Message>) {
        (self.close, self.messages.into())
    }

    /// Creates an outbox from the result of [`Outbox::into_parts`]. Returns `None` if there is nothing to send.
    pub fn from_parts(close: Option<CommandedClose>, messages: Vec<Message>) -> Option<Box<Self>> {
        let bytes = messages.iter().map(|message| message.payload().len()).sum();
        let outbox = Self { close, messages: messages.into(), bytes };
        (!outbox.is_empty()).then(|| Box::new(outbox))
    }
}
