//! Sizes, types and alerts of TLS 1.3 records (RFC 8446 sections 5 and 6).

/// The length of a record header: the type, the legacy version, and the length of the body (section 5.1).
pub const HEADER_LEN: usize = 5;
/// The longest plaintext of a record (section 5.1).
pub const PLAINTEXT_MAX: usize = 1 << 14;
/// The longest body, which follows the header (section 5.2).
pub const BODY_MAX: usize = PLAINTEXT_MAX + 256;
/// The longest record, including its header.
pub const RECORD_MAX: usize = HEADER_LEN + BODY_MAX;
/// The tag length of every AEAD used here.
pub const TAG_LEN: usize = 16;
/// The bytes that a record of ours adds to its plaintext: the header, the content type, the tag.
pub const OVERHEAD: usize = HEADER_LEN + 1 + TAG_LEN;
/// Limit on records in a row without application data: empty records, key updates and `user_canceled`. Each costs us
/// more than the peer. As in `BoringSSL` and rustls the limit is on the run, so it does not depend on the age of a
/// connection.
pub const IDLE_RECORDS_MAX: u8 = 32;

/// Limit on the key updates that are not counted by
/// [`Opener::take_key_updates`](super::opener::Opener::take_key_updates): those before the request has been read and
/// those after the session has ended.
pub const KEY_UPDATES_MAX: u8 = 64;

/// The type of every protected record (section 5.2).
pub(super) const OUTER_TYPE: u8 = 23;
/// `KeyUpdate` (section 4.6.3): the type of the handshake message, and the length of the message with its header.
pub(super) const KEY_UPDATE: u8 = 24;
pub(super) const KEY_UPDATE_LEN: usize = 5;

/// The content type of a record (section 5.1).
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

/// An alert that this module sends or interprets (section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// The sender will send no more.
    CloseNotify = 0,
    /// A message is not allowed at this point.
    UnexpectedMessage = 10,
    /// A record is not authentic.
    BadRecordMac = 20,
    /// A record is too long.
    RecordOverflow = 22,
    /// A field has an invalid value.
    IllegalParameter = 47,
    /// A message has the wrong length.
    DecodeError = 50,
    /// A failure that the peer did not cause.
    InternalError = 80,
    /// The sender aborts for a reason unrelated to the protocol; `close_notify` should follow.
    UserCanceled = 90,
}

impl Alert {
    /// Returns the alert as sent: its level and its description. The level is 1 for the two alerts that are not errors,
    /// and 2 for all others (section 6).
    pub fn encode(self) -> [u8; 2] {
        let level = if matches!(self, Self::CloseNotify | Self::UserCanceled) { 1 } else { 2 };
        [level, self as u8]
    }
}
