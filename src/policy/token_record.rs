//! The part of a verified token that a session keeps.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::claims::{Claims, Signer};
use super::members::Object;
use super::revocation::entry::TokenIds;

/// The part of a verified token that a session keeps, so that a later verifier can check it again. It is not a token:
/// it has no signature.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub(super) payload: Box<[u8]>,
    pub(super) signer: Signer,
    ids: TokenIds,
}

impl TokenRecord {
    /// Takes the payload of a token whose claims were verified; `None` if the token is not the one of these claims.
    pub fn new(token: &str, claims: &Claims) -> Option<Self> {
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        Some(Self { payload: payload.into(), signer: claims.signer()?, ids: TokenIds::of(claims) })
    }

    /// Returns the `exp` of the token, counted from the Unix epoch.
    pub(super) fn expires(&self) -> Option<Duration> {
        let seconds: f64 = serde_json::from_str(Object::parse(&self.payload).ok()?.get("exp").ok()??).ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// Whether both tokens are of one issuer and of one login: `iss` and `sid` are equal, or both tokens lack the
    /// claim.
    pub(super) fn is_same_login(&self, other: &Self) -> bool {
        let login = |payload: &[u8]| {
            let object = Object::parse(payload).ok()?;
            let value = |name| match object.get(name).ok()? {
                Some(json) => serde_json::from_str::<serde_json::Value>(json).ok().map(Some),
                None => Some(None),
            };
            Some([value("iss")?, value("sid")?])
        };
        login(&self.payload).is_some_and(|own| login(&other.payload) == Some(own))
    }

    /// Whether the payload has at most `max` bytes, and each claim a length that a record keeps.
    pub(super) fn is_bounded(&self, max: usize) -> bool {
        self.payload.len() <= max && self.ids.is_bounded()
    }

    /// Returns the claims by which the token can be revoked.
    pub fn ids(&self) -> &TokenIds {
        &self.ids
    }
}

/// Shows the size only: claims are personal data.
impl fmt::Debug for TokenRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRecord").field("bytes", &self.payload.len()).finish_non_exhaustive()
    }
}
