//! The receiving half of the record layer: opens records into plaintext.

use std::fmt;
use std::ops::Range;

use aws_lc_rs::aead::Aad;
use serde::{Deserialize, Serialize};

use super::keys::{Direction, DirectionState, TrafficSecret};
use super::wire::{
    Alert, BODY_MAX, ContentType, HEADER_LEN, IDLE_RECORDS_MAX, KEY_UPDATE, KEY_UPDATE_LEN, KEY_UPDATES_MAX,
    OUTER_TYPE, PLAINTEXT_MAX,
};

/// The receiving half of a connection. It buffers only the bytes of a fragmented `KeyUpdate`.
#[derive(Debug)]
pub struct Opener {
    direction: Direction,
    state: State,
    /// The number of records in a row without application data.
    idle: u8,
    /// The first bytes of a handshake message that continues in the next record.
    started: [u8; KEY_UPDATE_LEN],
    started_len: u8,
    /// The number of key updates since [`Opener::take_key_updates`] was last called.
    key_updates: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Open,
    Closed,
    Failed(Violation),
}

/// The state of an [`Opener`] as plain data. It contains the traffic secret.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenerState {
    direction: DirectionState,
    state: State,
    idle: u8,
    started: [u8; KEY_UPDATE_LEN],
    started_len: u8,
    key_updates: u8,
}

impl OpenerState {
    /// Continues to open. Returns `None` if the state is not valid.
    pub fn into_opener(self) -> Option<Opener> {
        let Self { direction, state, idle, started, started_len, key_updates } = self;
        let is_valid = usize::from(started_len) < KEY_UPDATE_LEN && idle <= IDLE_RECORDS_MAX;
        let direction = direction.into_direction().filter(|_| is_valid)?;
        Some(Opener { direction, state, idle, started, started_len, key_updates })
    }
}

/// One opened record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Its length including the header. The next record starts there.
    pub len: usize,
    /// Its content.
    pub content: Content,
}

/// The content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Application data, at least one byte: its range in the buffer.
    Data(Range<usize>),
    /// Nothing that concerns the caller.
    Nothing,
    /// The peer requests an update of our key: call [`super::Sealer::update_key`] (section 4.6.3).
    KeyUpdateRequested,
    /// `close_notify`: the peer sends no more data, and any bytes after it are ignored (section 6.1). Our direction
    /// stays open.
    Closed,
}

/// A rule that a peer broke, or the alert with which it ended the connection. Sections are of RFC 8446.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Violation {
    /// The record does not have the type of protected records (sections 5 and 5.2).
    NotProtected,
    /// The header announces more than 2^14 + 256 bytes (section 5.2).
    RecordTooLong,
    /// The plaintext is longer than 2^14 bytes and a content type (sections 5.1 and 5.4).
    PlaintextTooLong,
    /// The record was modified, replayed, reordered, or sealed with another key (section 5.2).
    NotAuthentic,
    /// The record contains only padding (section 5.4).
    NoContentType,
    /// The record has a content type that is not allowed after the handshake, such as `change_cipher_spec` (section 5).
    ContentType,
    /// An alert or handshake record is empty (section 5.1).
    Empty,
    /// A record of another type came between the fragments of a handshake message (section 5.1).
    Interleaved,
    /// Bytes follow a `KeyUpdate` in its record, so that they would span the key change (section 5.1).
    AcrossKeyChange,
    /// A handshake message other than `KeyUpdate` (section 4.6).
    HandshakeMessage,
    /// A `KeyUpdate` of the wrong length (section 4.6.3).
    KeyUpdateLength,
    /// A `KeyUpdate` whose `request_update` is neither 0 nor 1 (section 4.6.3).
    KeyUpdateValue,
    /// A record that does not contain exactly one alert (sections 5.1 and 6).
    AlertLength,
    /// More than [`IDLE_RECORDS_MAX`] records in a row without application data.
    TooManyIdle,
    /// More than [`KEY_UPDATES_MAX`] key updates since the caller last took their count.
    TooManyKeyUpdates,
    /// No sequence number is left, or the cryptographic library failed.
    Failed,
    /// Not a broken rule: the peer ended the connection with this alert (section 6.2).
    Alerted(u8),
}

impl Violation {
    /// Returns the alert to send to the peer. An alert of the peer is not answered (section 6.2).
    pub fn alert(self) -> Option<Alert> {
        match self {
            Self::NotProtected
            | Self::NoContentType
            | Self::ContentType
            | Self::Empty
            | Self::Interleaved
            | Self::AcrossKeyChange
            | Self::HandshakeMessage
            | Self::TooManyIdle
            | Self::TooManyKeyUpdates => Some(Alert::UnexpectedMessage),
            Self::RecordTooLong | Self::PlaintextTooLong => Some(Alert::RecordOverflow),
            Self::NotAuthentic => Some(Alert::BadRecordMac),
            Self::KeyUpdateLength | Self::AlertLength => Some(Alert::DecodeError),
            Self::KeyUpdateValue => Some(Alert::IllegalParameter),
            Self::Failed => Some(Alert::InternalError),
            Self::Alerted(_) => None,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotProtected => "a TLS record is not protected",
            Self::RecordTooLong => "a TLS record is too long",
            Self::PlaintextTooLong => "the plaintext of a TLS record is too long",
            Self::NotAuthentic => "a TLS record is not authentic",
            Self::NoContentType => "a TLS record contains only padding",
            Self::ContentType => "a TLS record has an unexpected content type",
            Self::Empty => "a TLS alert or handshake record is empty",
            Self::Interleaved => "a TLS handshake message was interrupted",
            Self::AcrossKeyChange => "a TLS handshake message spans a key change",
            Self::HandshakeMessage => "a TLS handshake message is unexpected",
            Self::KeyUpdateLength => "a TLS key update has the wrong length",
            Self::KeyUpdateValue => "a TLS key update has an invalid value",
            Self::AlertLength => "a TLS alert has the wrong length",
            Self::TooManyIdle => "too many TLS records without data",
            Self::TooManyKeyUpdates => "too many TLS key updates",
            Self::Failed => "the TLS record layer failed",
            Self::Alerted(code) => return write!(f, "the client sent the TLS alert {code}"),
        })
    }
}

impl std::error::Error for Violation {}

impl Opener {
    /// Returns the receiving half for this secret, under which the next record has the number `sequence`.
    pub fn new(secret: TrafficSecret, sequence: u64) -> Self {
        let direction = Direction::new(secret, sequence);
        Self { direction, state: State::Open, idle: 0, started: [0; KEY_UPDATE_LEN], started_len: 0, key_updates: 0 }
    }

    /// Returns the state, with which another process can continue to open.
    pub fn into_state(self) -> OpenerState {
        let Self { direction, state, idle, started, started_len, key_updates } = self;
        OpenerState { direction: direction.into_state(), state, idle, started, started_len, key_updates }
    }

    /// Returns how the direction ended: with `close_notify` or with a violation. Returns `None` while it is open.
    pub fn ended(&self) -> Option<Result<(), Violation>> {
        match self.state {
            State::Open => None,
            State::Closed => Some(Ok(())),
            State::Failed(violation) => Some(Err(violation)),
        }
    }

    /// Opens the record at the start of `buffer`, in place. Returns `None` if the record is incomplete: call again with
    /// the same bytes and more behind them. After [`Content::Closed`] all bytes are ignored and the result is `Closed`
    /// again.
    ///
    /// # Errors
    /// If the peer broke a rule or sent an error alert. Every later call returns the same error.
    pub fn open(&mut self, buffer: &mut [u8]) -> Result<Option<Opened>, Violation> {
        match self.state {
            State::Open => {}
            State::Closed => return Ok(Some(Opened { len: buffer.len(), content: Content::Closed })),
            State::Failed(violation) => return Err(violation),
        }
        let opened = self.open_next(buffer);
        match &opened {
            Err(violation) => self.state = State::Failed(*violation),
            Ok(Some(Opened { content: Content::Closed, .. })) => self.state = State::Closed,
            Ok(_) => {}
        }
        opened
    }

    /// Returns the number of key updates since [`Opener::take_key_updates`] was last called.
    pub fn key_updates(&self) -> u8 {
        self.key_updates
    }

    /// Returns the number of key updates since the last call. Each costs as much as 25 records, so the caller charges
    /// them to a quota. [`KEY_UPDATES_MAX`] bounds those that are not charged.
    pub fn take_key_updates(&mut self) -> u8 {
        std::mem::take(&mut self.key_updates)
    }

    /// Drops the state that can be derived again from the secret. The next record takes some microseconds longer.
    pub fn hibernate(&mut self) {
        self.direction.hibernate();
    }

    fn open_next(&mut self, buffer: &mut [u8]) -> Result<Option<Opened>, Violation> {
        let Some((header, rest)) = buffer.split_first_chunk_mut::<HEADER_LEN>() else {
            // A peer that has stopped speaking TLS may never send a whole header.
            return if matches!(buffer.first(), None | Some(&OUTER_TYPE)) {
                Ok(None)
            } else {
                Err(Violation::NotProtected)
            };
        };
        let [outer_type, _, _, high, low] = *header;
        let body_len = usize::from(u16::from_be_bytes([high, low]));
        // The header is enough for both checks, so do not wait for the body.
        if outer_type != OUTER_TYPE {
            return Err(Violation::NotProtected);
        }
        if body_len > BODY_MAX {
            return Err(Violation::RecordTooLong);
        }
        let Some(body) = rest.get_mut(..body_len) else { return Ok(None) };
        let (key, nonce) = self.direction.next().map_err(|_| Violation::Failed)?;
        let inner = key.open_in_place(nonce, Aad::from(*header), body).map_err(|_| Violation::NotAuthentic)?;
        if inner.len() > PLAINTEXT_MAX + 1 {
            return Err(Violation::PlaintextTooLong);
        }
        // The content type is the last non-zero byte; the bytes after it are padding (section 5.4).
        let end = inner.iter().rposition(|&byte| byte != 0).ok_or(Violation::NoContentType)?;
        let (content, padding) = inner.split_at(end);
        let content_type = padding.first().copied().unwrap_or_default();
        Ok(Some(Opened { len: HEADER_LEN + body_len, content: self.take(content_type, content)? }))
    }

    fn take(&mut self, content_type: u8, content: &[u8]) -> Result<Content, Violation> {
        const DATA: u8 = ContentType::ApplicationData as u8;
        const ALERT: u8 = ContentType::Alert as u8;
        const HANDSHAKE: u8 = ContentType::Handshake as u8;
        if self.started_len > 0 && content_type != HANDSHAKE {
            return Err(Violation::Interleaved);
        }
        if content_type == DATA && !content.is_empty() {
            self.idle = 0;
            return Ok(Content::Data(HEADER_LEN..HEADER_LEN + content.len()));
        }
        self.idle += 1;
        if self.idle > IDLE_RECORDS_MAX {
            return Err(Violation::TooManyIdle);
        }
        match (content_type, content) {
            (DATA, _) => Ok(Content::Nothing),
            (ALERT | HANDSHAKE, []) => Err(Violation::Empty),
            (ALERT, &[_level, description]) => Self::take_alert(description),
            (ALERT, _) => Err(Violation::AlertLength),
            (HANDSHAKE, message) => self.take_handshake(message),
            _ => Err(Violation::ContentType),
        }
    }

    /// Handles an alert. Its level is ignored: all alerts except two are errors (section 6).
    fn take_alert(description: u8) -> Result<Content, Violation> {
        const CLOSE_NOTIFY: u8 = Alert::CloseNotify as u8;
        const USER_CANCELED: u8 = Alert::UserCanceled as u8;
        match description {
            CLOSE_NOTIFY => Ok(Content::Closed),
            USER_CANCELED => Ok(Content::Nothing),
            other => Err(Violation::Alerted(other)),
        }
    }

    /// Appends to a handshake message, which may be fragmented but must end where its record ends (section 5.1).
    fn take_handshake(&mut self, part: &[u8]) -> Result<Content, Violation> {
        let before = usize::from(self.started_len);
        for (to, from) in self.started.iter_mut().skip(before).zip(part) {
            *to = *from;
        }
        let len = before + part.len();
        let message = self.started.get(..len).unwrap_or(&self.started);
        // Type, length and value of the only message that is allowed, as far as received.
        let (kind, rest) = message.split_first().map_or((KEY_UPDATE, message), |(kind, rest)| (*kind, rest));
        if kind != KEY_UPDATE {
            return Err(Violation::HandshakeMessage);
        }
        if rest.iter().zip([0, 0, 1]).any(|(have, want)| *have != want) {
            return Err(Violation::KeyUpdateLength);
        }
        let requested = match rest {
            [_, _, _, 0] => false,
            [_, _, _, 1] => true,
            [_, _, _, _] => return Err(Violation::KeyUpdateValue),
            _ => {
                self.started_len = u8::try_from(len).map_err(|_| Violation::Failed)?;
                return Ok(Content::Nothing);
            }
        };
        if len > KEY_UPDATE_LEN {
            return Err(Violation::AcrossKeyChange);
        }
        self.started_len = 0;
        if self.key_updates >= KEY_UPDATES_MAX {
            return Err(Violation::TooManyKeyUpdates);
        }
        self.key_updates += 1;
        self.direction.update().map_err(|_| Violation::Failed)?;
        Ok(if requested { Content::KeyUpdateRequested } else { Content::Nothing })
    }
}
