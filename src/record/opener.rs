//! The way in: from records to plaintext.

use std::fmt;
use std::ops::Range;

use aws_lc_rs::aead::Aad;

use super::keys::{Direction, TrafficSecret};
use super::wire::{
    Alert, BODY_MAX, ContentType, HEADER_LEN, IDLE_RECORDS_MAX, KEY_UPDATE, KEY_UPDATE_LEN, KEY_UPDATES_MAX,
    OUTER_TYPE, PLAINTEXT_MAX,
};

/// Opens what is received. It holds no bytes but those of a `KeyUpdate` that came in parts.
#[derive(Debug)]
pub struct Opener {
    direction: Direction,
    state: State,
    /// How many records without application data came in a row.
    idle: u8,
    /// The first bytes of a handshake message whose rest is to come in the next record.
    started: [u8; KEY_UPDATE_LEN],
    started_len: u8,
    /// Key updates since they were counted last.
    key_updates: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
    Failed(Violation),
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Its length with its header: the next one begins there.
    pub len: usize,
    /// What it carried.
    pub content: Content,
}

/// What a record carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Application data, at least one byte: where it is in the buffer.
    Data(Range<usize>),
    /// Nothing that matters to the caller.
    Nothing,
    /// The peer asks for a new key of ours: [`super::Sealer::update_key`] (section 4.6.3).
    KeyUpdateRequested,
    /// `close_notify`: the peer sends no more, and what comes nevertheless is ignored (section 6.1). We may go on sending.
    Closed,
}

/// How a peer broke a rule, or why it gave up. Sections are of RFC 8446.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// The record is not of the type of all that are protected (sections 5 and 5.2).
    NotProtected,
    /// The header names a length over 2^14 + 256 (section 5.2).
    RecordTooLong,
    /// The record holds more than 2^14 bytes and a type (sections 5.1 and 5.4).
    PlaintextTooLong,
    /// The record was changed, replayed, put elsewhere, or sealed with another key (section 5.2).
    NotAuthentic,
    /// The record is nothing but padding (section 5.4).
    NoContentType,
    /// The record's content has a type that it may not have after the handshake, such as `change_cipher_spec` (section 5).
    ContentType,
    /// The record holds nothing, but its type is not application data (section 5.1).
    Empty,
    /// Another record came between the parts of a handshake message (section 5.1).
    Interleaved,
    /// More followed in the record of a `KeyUpdate`, after which the key is another (section 5.1).
    AcrossKeyChange,
    /// A handshake message other than `KeyUpdate` (section 4.6).
    HandshakeMessage,
    /// A `KeyUpdate` of a wrong length (section 4.6.3).
    KeyUpdateLength,
    /// A `KeyUpdate` that neither asks for another nor does not (section 4.6.3).
    KeyUpdateValue,
    /// An alert that is not exactly one record (sections 5.1 and 6).
    AlertLength,
    /// More than [`IDLE_RECORDS_MAX`] records in a row without application data.
    TooManyIdle,
    /// More than [`KEY_UPDATES_MAX`] key updates that nobody counted against a quota.
    TooManyKeyUpdates,
    /// No sequence number is left, or the library failed.
    Failed,
    /// No rule: the peer sent this alert, which says why it ends the connection (section 6.2).
    Alerted(u8),
}

impl Violation {
    /// What tells the peer. A peer's own alert is not answered (section 6.2).
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
            Self::PlaintextTooLong => "a TLS record holds too much",
            Self::NotAuthentic => "a TLS record is not authentic",
            Self::NoContentType => "a TLS record is nothing but padding",
            Self::ContentType => "a TLS record is of a type that does not fit here",
            Self::Empty => "a TLS record that may not be empty is",
            Self::Interleaved => "a TLS handshake message was interrupted",
            Self::AcrossKeyChange => "a TLS handshake message spans a change of keys",
            Self::HandshakeMessage => "a TLS handshake message does not fit here",
            Self::KeyUpdateLength => "a TLS key update has a wrong length",
            Self::KeyUpdateValue => "a TLS key update has a wrong value",
            Self::AlertLength => "a TLS alert has a wrong length",
            Self::TooManyIdle => "too many TLS records without data",
            Self::TooManyKeyUpdates => "too many TLS key updates",
            Self::Failed => "the TLS record layer failed",
            Self::Alerted(code) => return write!(f, "the client sent the TLS alert {code}"),
        })
    }
}

impl std::error::Error for Violation {}

impl Opener {
    /// Goes on where another left off: `sequence` is the number of the next record under this secret.
    pub fn new(secret: TrafficSecret, sequence: u64) -> Self {
        let direction = Direction::new(secret, sequence);
        Self { direction, state: State::Open, idle: 0, started: [0; KEY_UPDATE_LEN], started_len: 0, key_updates: 0 }
    }

    /// Whether nothing more comes: in order, or because of this.
    pub fn ended(&self) -> Option<Result<(), Violation>> {
        match self.state {
            State::Open => None,
            State::Closed => Some(Ok(())),
            State::Failed(violation) => Some(Err(violation)),
        }
    }

    /// Opens the record that `buffer` begins with, in place. `None` means that its end is still to come: ask again with
    /// more, and with the same bytes before it. After [`Content::Closed`] everything is ignored and `Closed` once more.
    ///
    /// # Errors
    /// If the peer broke a rule, or gave up; then and ever after.
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

    /// How many key updates came since [`Opener::take_key_updates`] was called last.
    pub fn key_updates(&self) -> u8 {
        self.key_updates
    }

    /// How many key updates came since this was called last. Each costs as much as 25 records, so the caller charges them
    /// to a quota; [`KEY_UPDATES_MAX`] bounds what a peer gets for nothing.
    pub fn take_key_updates(&mut self) -> u8 {
        std::mem::take(&mut self.key_updates)
    }

    /// Drops what can be derived again from the secret. The next record costs some microseconds more.
    pub fn hibernate(&mut self) {
        self.direction.hibernate();
    }

    fn open_next(&mut self, buffer: &mut [u8]) -> Result<Option<Opened>, Violation> {
        let Some((header, rest)) = buffer.split_first_chunk_mut::<HEADER_LEN>() else {
            // A peer that does not speak TLS any more may never send a whole header.
            return if matches!(buffer.first(), None | Some(&OUTER_TYPE)) {
                Ok(None)
            } else {
                Err(Violation::NotProtected)
            };
        };
        let [outer_type, _, _, high, low] = *header;
        let body_len = usize::from(u16::from_be_bytes([high, low]));
        // Both are known before the rest has come, and are not worth waiting for.
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
        // The type is the last byte that is not zero; what follows is padding (section 5.4).
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

    /// The level means nothing any more: all alerts but two are errors (section 6).
    fn take_alert(description: u8) -> Result<Content, Violation> {
        const CLOSE_NOTIFY: u8 = Alert::CloseNotify as u8;
        const USER_CANCELED: u8 = Alert::UserCanceled as u8;
        match description {
            CLOSE_NOTIFY => Ok(Content::Closed),
            USER_CANCELED => Ok(Content::Nothing),
            other => Err(Violation::Alerted(other)),
        }
    }

    /// Adds to a handshake message, which may come in parts but must end where its record does (section 5.1).
    fn take_handshake(&mut self, part: &[u8]) -> Result<Content, Violation> {
        let before = usize::from(self.started_len);
        for (to, from) in self.started.iter_mut().skip(before).zip(part) {
            *to = *from;
        }
        let len = before + part.len();
        let so_far = self.started.get(..len).unwrap_or(&self.started);
        // Type, length and value of the one message that there may be, as far as they have come.
        let (kind, rest) = so_far.split_first().map_or((KEY_UPDATE, so_far), |(kind, rest)| (*kind, rest));
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
