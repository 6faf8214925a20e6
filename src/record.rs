//! The TLS 1.3 record layer (RFC 8446 section 5) of a connection after its handshake.
//!
//! **Bytes and sequence numbers in, bytes out: this module does not use a socket, a clock or the handshake.**
//!
//! Purpose: rustls keeps 4 KiB per connection at all times, reads 4 KiB at a time and allocates for every record. A
//! proxy holds many idle connections and forwards many small records. Here a connection owns two traffic secrets, two
//! sequence numbers and two AEAD contexts. Records are opened in the buffer that they were read into. Plaintext is
//! sealed from the buffer that it was read into, directly into the output. [`SealerState`] and [`OpenerState`] pass the
//! connection to another process.
//!
//! Assumptions: rustls does the handshake and everything that authenticates the peer. aws-lc provides the AEADs and
//! HKDF. The traffic secrets and both sequence numbers are correct, and nothing else seals with them, because a
//! repeated nonce gives the key away. Each nonce comes from `keys::Direction`, which never returns one twice.
//!
//! Behavior: [`Sealer`] splits plaintext into records of at most 2^14 bytes and updates its key before the AEAD's
//! limit. It never pads. [`Opener`] takes one record at a time. For everything that a peer must not send it returns the
//! broken rule ([`Violation`]), which names the alert to send. A peer may update its key any number of times while it
//! sends data, as long as the caller takes the count of its updates ([`Opener::take_key_updates`]). It may send at most
//! [`IDLE_RECORDS_MAX`] records in a row without data.
//!
//! Not supported: handshake messages other than `KeyUpdate`, since a client has no other to send without an offer of
//! post-handshake authentication; TLS 1.2, early data, record size limits (RFC 8449) and exporters. Secrets are
//! zeroized on drop, but a moved value may have left a copy on the stack. A client's `KeyUpdate` that requests ours is
//! answered before our next record, as section 4.6.3 requires, and not at once.

pub mod wire;
pub mod keys;
pub mod opener;
pub mod sealer;

pub use keys::{Suite, TrafficSecret};
pub use opener::{Content, Opened, Opener, OpenerState, Violation};
pub use sealer::{SealError, Sealed, Sealer, SealerState};
pub use wire::{
    Alert, BODY_MAX, ContentType, HEADER_LEN, IDLE_RECORDS_MAX, KEY_UPDATES_MAX, OVERHEAD, PLAINTEXT_MAX, RECORD_MAX,
    TAG_LEN,
};
