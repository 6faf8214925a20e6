//! TLS 1.3's record layer (RFC 8446 section 5) for a connection whose handshake is over.
//!
//! **Bytes and sequence numbers in, bytes out: nothing here knows of a socket, a clock or the handshake.**
//!
//! Why it exists. rustls keeps 4 KiB a connection for ever, reads 4 KiB at a time and allocates for every record; a proxy
//! holds many connections that are idle and moves many records that are small. Here a connection owns its two traffic
//! secrets, two sequence numbers and two AEAD contexts; records are opened where they were read to, and sealed from where
//! they were read to straight into what is sent. Such a state could also be written down and given to another process.
//!
//! What it relies on. The handshake is rustls's, and so is everything that decides with whom one speaks. The AEADs and
//! HKDF are aws-lc's. The traffic secrets and both sequence numbers are right, and nothing else seals with them: a nonce
//! that is used twice gives the key away. Each nonce comes from `keys::Direction`, which gives none out twice.
//!
//! What it does. [`Sealer`] cuts into records of at most 2^14 bytes and changes its key before the AEAD's limit; it
//! never pads. [`Opener`] takes one record at a time, and says of everything that a peer may not send which rule that
//! breaks ([`Violation`]) and which alert tells the peer. A peer may change its key as often as it likes while it sends
//! data, and may have [`IDLE_RECORDS_MAX`] records in a row that carry none.
//!
//! What it does not do. No handshake message but `KeyUpdate`: a client has no other to send, since it was not offered
//! post-handshake authentication. No TLS 1.2, no early data, no record size limit (RFC 8449), no exporters. Secrets are
//! overwritten when they are dropped, but a value that was moved may have left a copy on the stack. A client's `KeyUpdate`
//! that asks for ours is answered with the next record of ours, as section 4.6.3 has it, not at once.

pub mod wire;
pub mod keys;
pub mod opener;
pub mod sealer;

pub use keys::{Suite, TrafficSecret};
pub use opener::{Content, Opened, Opener, Violation};
pub use sealer::{SealError, Sealed, Sealer};
pub use wire::{
    Alert, BODY_MAX, ContentType, HEADER_LEN, IDLE_RECORDS_MAX, KEY_UPDATES_MAX, OVERHEAD, PLAINTEXT_MAX, RECORD_MAX,
    TAG_LEN,
};
