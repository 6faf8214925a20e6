//! The state of a frozen session as plain data, and the versions of its encoding.
//!
//! An encoding is postcard without names: a field is added only in a new version. The previous version is written, too,
//! so that a process can be replaced by an older program. `tests/handover` has sessions of each version as files.

use std::error::Error;
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::description::RateWindowState;
use super::output_age::SlowClient;
use super::peer_io::state::PeerIoState;
use crate::session::state::{RelativeTime, SessionState};
use crate::tls::stream::ClientState;

/// The versions that this program writes and reads.
pub const VERSIONS: RangeInclusive<u16> = 1..=2;
/// The maximum length of an encoding. A session that needs more does not move: it buffers far more than usual.
pub const ENCODED_MAX_BYTES: usize = 8 << 20;

/// The state of a session without its sockets. It contains the traffic secrets of its client's connection, so it is not
/// `Clone`: see [`SealerState`](crate::record::SealerState).
#[derive(Debug, Serialize, Deserialize)]
pub struct SessionImage<R = RelayState> {
    /// The state of the protocol.
    pub session: SessionState,
    pub(super) client: ClientState,
    pub(super) client_io: PeerIoState,
    pub(super) upstream_io: PeerIoState,
    /// The state of the relay.
    pub relay: R,
}

/// The state of the relay beside its session and its streams.
#[derive(Debug, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination with the others")]
pub struct RelayState {
    /// Whether the timer of its hibernation runs.
    pub(super) is_awake: bool,
    pub(super) watch_at: Option<RelativeTime>,
    pub(super) is_probed: bool,
    pub(super) slow: Option<SlowClient>,
    /// Whether the slots of its client were released.
    pub is_client_released: bool,
    /// Whether it is counted at its server.
    pub has_server: bool,
    /// Earlier counts of a session that forwards messages. Version 1 lacks them.
    pub(super) rates: Option<RateWindowState>,
}

/// [`RelayState`] in version 1.
#[derive(Debug, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination with the others")]
struct RelayStateV1 {
    is_awake: bool,
    watch_at: Option<RelativeTime>,
    is_probed: bool,
    slow: Option<SlowClient>,
    is_client_released: bool,
    has_server: bool,
}

/// [`SessionImage`] with the relay in a version of its own, as it is written.
#[derive(Serialize)]
struct ImageRef<'a, R> {
    session: &'a SessionState,
    client: &'a ClientState,
    client_io: &'a PeerIoState,
    upstream_io: &'a PeerIoState,
    relay: R,
}

impl From<RelayStateV1> for RelayState {
    fn from(state: RelayStateV1) -> Self {
        let RelayStateV1 { is_awake, watch_at, is_probed, slow, is_client_released, has_server } = state;
        Self { is_awake, watch_at, is_probed, slow, is_client_released, has_server, rates: None }
    }
}

impl From<&RelayState> for RelayStateV1 {
    fn from(state: &RelayState) -> Self {
        let RelayState { is_awake, watch_at, is_probed, slow, is_client_released, has_server, rates: _ } = *state;
        Self { is_awake, watch_at, is_probed, slow, is_client_released, has_server }
    }
}

/// Why a session cannot be encoded or decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageError {
    /// The version is not one of [`VERSIONS`].
    Version(u16),
    /// It is longer than [`ENCODED_MAX_BYTES`].
    TooLong,
    /// The bytes are not an encoding of this version, or other bytes follow it.
    Malformed,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "version {version} of the state of a session is not supported"),
            Self::TooLong => f.write_str("the state of the session is too long"),
            Self::Malformed => f.write_str("the state of the session is malformed"),
        }
    }
}

impl Error for ImageError {}

impl SessionImage {
    /// Returns the encoding in this version.
    ///
    /// # Errors
    /// If the version is not supported, or the encoding would be too long.
    pub fn encode(&self, version: u16) -> Result<Zeroizing<Vec<u8>>, ImageError> {
        match version {
            1 => {
                let Self { session, client, client_io, upstream_io, relay } = self;
                encode(&ImageRef { session, client, client_io, upstream_io, relay: RelayStateV1::from(relay) })
            }
            2 => encode(self),
            _ => Err(ImageError::Version(version)),
        }
    }

    /// Returns the state that was encoded in this version.
    ///
    /// # Errors
    /// If the version is not supported, or the bytes are not exactly one encoding.
    pub fn decode(version: u16, bytes: &[u8]) -> Result<Self, ImageError> {
        match version {
            1 => {
                let image: SessionImage<RelayStateV1> = decode(bytes)?;
                let SessionImage { session, client, client_io, upstream_io, relay } = image;
                Ok(Self { session, client, client_io, upstream_io, relay: relay.into() })
            }
            2 => decode(bytes),
            _ => Err(ImageError::Version(version)),
        }
    }
}

/// Encodes into a buffer of the exact length: a buffer that grows would leave copies of the secrets in memory.
fn encode(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, ImageError> {
    let size = postcard::ser_flavors::Size::default();
    let len = postcard::serialize_with_flavor(value, size).map_err(|_| ImageError::Malformed)?;
    if len > ENCODED_MAX_BYTES {
        return Err(ImageError::TooLong);
    }
    let mut bytes = Zeroizing::new(vec![0; len]);
    postcard::to_slice(value, &mut bytes).map_err(|_| ImageError::Malformed)?;
    Ok(bytes)
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ImageError> {
    if bytes.len() > ENCODED_MAX_BYTES {
        return Err(ImageError::TooLong);
    }
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(ImageError::Malformed),
    }
}
