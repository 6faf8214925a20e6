//! Verifies a JSON Web Token (RFC 7519, best practice RFC 8725).

use std::time::Duration;

use jsonwebtoken::Algorithm;

use super::claims::Claims;
use super::credential::TokenSource;
use super::key::KeySet;

/// What one `[auth.<name>]` section asks of a token.
pub struct Verifier {
    /// Where the token may stand, in order.
    pub sources: Vec<TokenSource>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}

/// What a verifier is made of.
pub struct VerifierParts {
    /// The keys.
    pub keys: KeySet,
    /// The algorithms that the section allows.
    pub algorithms: Vec<Algorithm>,
    /// `iss` must be this.
    pub issuer: Option<String>,
    /// `aud` must hold one of these; empty: `aud` is not looked at.
    pub audience: Vec<String>,
    /// How far clocks may differ, for `exp` and `nbf`; at most five minutes.
    pub leeway: Duration,
    /// Where the token may stand, in order.
    pub sources: Vec<TokenSource>,
}

/// Why a token was refused: for the log. The client learns only that it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {}

impl Verifier {
    /// Puts a verifier together.
    pub fn new(_parts: VerifierParts) -> Self {
        todo!()
    }
    /// Checks the token at `now`, counted from the Unix epoch.
    pub fn verify(&self, _token: &str, _now: Duration) -> Result<Claims, TokenError> {
        todo!()
    }
}
