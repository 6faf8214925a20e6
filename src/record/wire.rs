//! Sizes, types and alerts of TLS 1.3 records (RFC 8446 sections 5 and 6).

/// The header of a record: its type, a version that means nothing, and the length of what follows (section 5.1).
pub const HEADER_LEN: usize = 5;
/// The most plaintext that a record carries (section 5.1).
pub const PLAINTEXT_MAX: usize = 1 << 14;
/// The most that may follow a header (section 5.2).
pub const BODY_MAX: usize = PLAINTEXT_MAX + 256;
/// The longest record with its header.
pub const RECORD_MAX: usize = HEADER_LEN + BODY_MAX;
/// The tag of every AEAD that TLS 1.3 uses here.
pub const TAG_LEN: usize = 16;
/// What a record of ours is longer than its plaintext: the header, the type within, the tag.
pub const OVERHEAD: usize = HEADER_LEN + 1 + TAG_LEN;
/// How many records in a row may carry no application data: empty ones, key updates and `user_canceled`. Each costs us
/// more than the peer. As in `BoringSSL` and rustls it is the run that counts, so that the age of a connection does not.
pub const IDLE_RECORDS_MAX: u8 = 32;

/// How many key updates a peer may send before somebody counts them ([`Opener::take_key_updates`](super::opener::Opener::take_key_updates)): before its request has
/// been read, and after its session is over.
pub const KEY_UPDATES_MAX: u8 = 64;

/// The type of every protected record (section 5.2).
pub(super) const OUTER_TYPE: u8 = 23;
/// `KeyUpdate` (section 4.6.3): the type of the handshake message, and the length of its body.
pub(super) const KEY_UPDATE: u8 = 24;
pub(super) const KEY_UPDATE_LEN: usize = 5;

/// What a record carries (section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ContentType {
    /// An alert (section 6).
    Alert = 21,
    /// A handshake message, or a part of one (section 4).
    Handshake = 22,
    /// Application data.
    ApplicationData = 23,
}

/// The alerts that this module sends or must understand (section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// The sender will send no more.
    CloseNotify = 0,
    /// A message came that does not fit here.
    UnexpectedMessage = 10,
    /// A record is not authentic.
    BadRecordMac = 20,
    /// A record is too long.
    RecordOverflow = 22,
    /// A field has a value that it may not have.
    IllegalParameter = 47,
    /// A message has the wrong length.
    DecodeError = 50,
    /// Something failed that is not the peer's doing.
    InternalError = 80,
    /// The sender gives up for a reason of its own; `close_notify` should follow.
    UserCanceled = 90,
}

impl Alert {
    /// The alert as it is sent: its level (section 6: 1 for the two that are no errors, 2 for all else), its description.
    pub fn encode(self) -> [u8; 2] {
        let level = if matches!(self, Self::CloseNotify | Self::UserCanceled) { 1 } else { 2 };
        [level, self as u8]
    }
}
