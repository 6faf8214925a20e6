//! Verifies JSON Web Tokens (RFC 7519, best practice RFC 8725).
//!
//! The order of the steps keeps this safe: check the length, parse the header, select the key by the algorithms that
//! the *operator* listed, verify the signature, and only then read claims. Only `alg`, `kid`, `crit` and `b64` of the
//! header are read: a key or the address of a key in it (`jwk`, `jku`, `x5c`, `x5u`) is chosen by the sender (RFC 8725
//! section 3.10). Of `typ` only the one of logout tokens is rejected, since issuers disagree about the others: tokens
//! of different kinds are distinguished by issuer, audience and key (RFC 8725 section 3.12).

mod live;

mod error;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;

pub use self::error::TokenError;
use super::claim_path::ClaimPath;
use super::claims::{Claims, Signer};
use super::credential::TokenSource;
use super::expiry::OnExpiry;
use super::key::{self, KeyId, KeySet};
use super::live_keys::{KeySource, LiveKeys};
use super::members::{Claim, Members, Object, ObjectError, Wanted, numeric_date};
use super::token_cache::{TokenCache, TokenHash};
pub use super::token_record::TokenRecord;
use super::token_type::{LOGOUT, token_type};
use crate::ws::code::CloseCode;

/// Verifies tokens by the rules of one `[auth.<name>]` section.
pub struct Verifier {
    config: VerifierConfig,
    wanted: Wanted,
    token_cache: TokenCache,
    /// The keys of a source that is fetched.
    live: Option<Arc<LiveKeys>>,
}

/// The configuration of a [`Verifier`]: plain data that two configurations are compared by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierConfig {
    /// The keys.
    pub keys: KeySource,
    /// The algorithms that the section allows.
    pub algorithms: Vec<Algorithm>,
    /// The required value of `iss`.
    pub issuer: Option<String>,
    /// `aud` must contain one of these; if empty, `aud` is not checked.
    pub audience: Vec<String>,
    /// The claim that is the subject: `sub`, unless the issuer identifies its users by another one.
    pub subject_claim: ClaimPath,
    /// The tolerated difference of clocks, for `exp` and `nbf`; limited to [`MAX_LEEWAY`].
    pub leeway: Duration,
    /// The effect of the expiry of a token on its session.
    pub on_expiry: OnExpiry,
    /// The sources of the token, in order.
    pub sources: Vec<TokenSource>,
    /// Whether the upstream receives the token that admitted the client, in the source that carried it.
    pub forward_token: bool,
    /// The maximum length of a token.
    pub max_bytes: usize,
    /// The claims that routes require or forward. Only these and the claims of [`KEPT`] are kept.
    pub claims: Vec<ClaimPath>,
}

impl Verifier {
    /// Creates a verifier with an empty cache. If its keys are fetched, it rejects every token:
    /// [`Verifier::with_live_keys`] creates one that has them.
    #[must_use]
    pub fn new(config: VerifierConfig) -> Self {
        let has_audience = !config.audience.is_empty();
        let checked = [("iss", config.issuer.is_some()), ("aud", has_audience), ("exp", true), ("nbf", true)];
        let checked = checked.into_iter().filter(|(_, is_checked)| *is_checked);
        let checked = checked.map(|(name, _)| ClaimPath::registered(name)).chain([config.subject_claim.clone()]);
        let wanted = Wanted::new(checked, config.claims.iter().cloned().chain(KEPT.map(ClaimPath::registered)));
        Self { config, wanted, token_cache: TokenCache::new(), live: None }
    }

    /// Creates a verifier with an empty cache, whose keys are fetched.
    #[must_use]
    pub fn with_live_keys(config: VerifierConfig, keys: Arc<LiveKeys>) -> Self {
        Self { live: Some(keys), ..Self::new(config) }
    }

    /// Its configuration.
    pub fn config(&self) -> &VerifierConfig {
        &self.config
    }

    /// The tolerated difference of clocks, at most [`MAX_LEEWAY`].
    pub fn leeway(&self) -> Duration {
        self.config.leeway.min(MAX_LEEWAY)
    }

    /// Whether the token claims to be of the issuer and for the audience of this section, as far as the section has
    /// them. The claims are not verified, and only select the section of a route that verifies the token.
    pub fn recognizes(&self, token: &str) -> bool {
        if self.config.issuer.is_none() && self.config.audience.is_empty() {
            return true;
        }
        let is_own = |members: &Members| self.check_issuer(members).and(self.check_audience(members)).is_ok();
        self.unverified(token).is_some_and(|members| is_own(&members))
    }

    /// As [`Verifier::recognizes`], for a token whose audience is another one.
    pub(super) fn recognizes_issuer(&self, token: &str) -> bool {
        self.unverified(token).is_some_and(|members| self.check_issuer(&members).is_ok())
    }

    /// Returns the claims of a token without any verification.
    fn unverified(&self, token: &str) -> Option<Members> {
        let payload = token.split('.').nth(1).filter(|_| token.len() <= self.config.max_bytes)?;
        Members::parse(&decode(payload).ok()?, &self.wanted).ok()
    }

    /// Returns when the last of the tokens expires that it has verified, with the leeway, since the Unix epoch.
    pub fn latest_end(&self) -> Duration {
        self.token_cache.latest_end()
    }

    /// Verifies a token at `now`, counted from the Unix epoch. The signature of a cached token is not verified again,
    /// but its claims are checked every time.
    ///
    /// # Errors
    /// The first rule that the token breaks. Claims are checked after the signature.
    pub fn verify(&self, token: &str, now: Duration) -> Result<Claims, TokenError> {
        if token.len() > self.config.max_bytes {
            return Err(TokenError::TooLong);
        }
        let hash = TokenHash::of(token);
        let keys = self.keys().ok_or(TokenError::KeyUnknown)?;
        // A key that left the set invalidates the tokens that it verified.
        let is_current = |signer: &Signer| keys.has(signer.key, signer.algorithm);
        if let Some((members, signer)) = self.token_cache.get(&hash).filter(|(_, signer)| is_current(signer)) {
            return self.check_claims(members, signer, now);
        }
        let (payload, signer) = self.verify_parts(&keys, token)?;
        if token_type(token).is_some_and(|kind| kind == LOGOUT) {
            return Err(TokenError::LogoutToken);
        }
        let members = self.members(&payload)?;
        let claims = self.check_claims(Arc::clone(&members), signer, now)?;
        let ends = claims.expires().unwrap_or(now).saturating_add(self.leeway());
        self.token_cache.insert(hash, (members, signer), ends, now);
        Ok(claims)
    }

    /// Checks a token that was verified before, by this or another verifier, as if it were presented again: its key
    /// must be in the key set, and its claims are judged by the rules of this verifier. Keys that were not fetched yet
    /// are not checked: see [`Verifier::lost_key_of`]. It may have expired: its session ends at
    /// [`Verifier::session_end`].
    ///
    /// # Errors
    /// The first rule that the token breaks.
    pub fn recheck(&self, token: &TokenRecord, now: Duration) -> Result<Claims, TokenError> {
        if !self.config.algorithms.contains(&token.signer.algorithm) {
            return Err(TokenError::AlgorithmNotAllowed);
        }
        if self.lost_key_of(token) {
            return Err(TokenError::KeyUnknown);
        }
        self.check_unexpired(self.members(&token.payload)?, token.signer, now)
    }

    /// Returns when the session of a token ends because the token has expired, counted from the Unix epoch, and the
    /// code of its Close. `None` if its session outlives it.
    pub fn session_end(&self, claims: &Claims) -> Option<(Duration, CloseCode)> {
        self.config.on_expiry.end(claims.expires()?, self.leeway())
    }

    fn members(&self, payload: &[u8]) -> Result<Arc<Members>, TokenError> {
        let members = Members::parse(payload, &self.wanted).map_err(|error| match error {
            ObjectError::Malformed => TokenError::ClaimsMalformed,
            ObjectError::Duplicate => TokenError::ClaimsDuplicate,
        })?;
        Ok(Arc::new(members))
    }

    /// Verifies the signature of a token and returns its payload, which is not parsed.
    ///
    /// # Errors
    /// The first rule about the form, header, key or signature that the token breaks.
    #[doc(hidden)]
    pub fn verify_signature(&self, token: &str) -> Result<Vec<u8>, TokenError> {
        if token.len() > self.config.max_bytes {
            return Err(TokenError::TooLong);
        }
        let keys = self.keys().ok_or(TokenError::KeyUnknown)?;
        self.verify_parts(&keys, token).map(|(payload, _)| payload)
    }

    /// Verifies the signature of a token that is not too long. Returns its payload, and the key that signed it.
    fn verify_parts(&self, keys: &KeySet, token: &str) -> Result<(Vec<u8>, Signer), TokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::NotCompact)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::NotCompact)?;
        if payload.contains('.') {
            return Err(TokenError::NotCompact);
        }
        // All three parts must be well-formed before jsonwebtoken decodes one, so that both decode the same bytes.
        let header = Header::parse(&decode(header)?)?;
        let payload = decode(payload)?;
        decode(signature)?;
        let key = self.check_signature(keys, &header, message, signature)?;
        Ok((payload, Signer { key, algorithm: header.algorithm }))
    }

    fn check_signature(
        &self,
        keys: &KeySet,
        header: &Header,
        message: &str,
        signature: &str,
    ) -> Result<KeyId, TokenError> {
        let algorithm = header.algorithm;
        if !self.config.algorithms.contains(&algorithm) {
            return Err(TokenError::AlgorithmNotAllowed);
        }
        let mut candidates = keys.candidates(header.kid.as_deref()).peekable();
        if candidates.peek().is_none() {
            return Err(TokenError::KeyUnknown);
        }
        let mut fitting = candidates.filter(|key| key.fits(algorithm)).peekable();
        if fitting.peek().is_none() {
            return Err(TokenError::AlgorithmNotAllowed);
        }
        let mut cost = 0;
        for key in fitting {
            cost += key.cost();
            if cost > MAX_KEYS_COST {
                return Err(TokenError::KeyAmbiguous);
            }
            if key.verify(algorithm, message, signature) {
                return Ok(key.id());
            }
        }
        Err(TokenError::Signature)
    }

    fn check_claims(&self, members: Arc<Members>, signer: Signer, now: Duration) -> Result<Claims, TokenError> {
        let claims = self.check_unexpired(members, signer, now)?;
        if claims.expires().is_some_and(|expires| now >= expires.saturating_add(self.leeway())) {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }

    /// Checks the claims of a token except whether it has expired.
    fn check_unexpired(&self, members: Arc<Members>, signer: Signer, now: Duration) -> Result<Claims, TokenError> {
        let expires = self.check_times(&members, now)?;
        self.check_parties(&members)?;
        Ok(Claims::new(members, Arc::clone(self.config.subject_claim.text()), expires, signer))
    }

    /// Checks `nbf`, and returns `exp`. `iat` is not checked: RFC 7519 defines no rule for it.
    fn check_times(&self, claims: &Members, now: Duration) -> Result<Duration, TokenError> {
        let expires = claims.get("exp").ok_or(TokenError::ExpiresMissing)?;
        let expires = numeric_date(expires).ok_or(TokenError::ExpiresMalformed)?;
        if let Some(not_before) = claims.get("nbf") {
            let not_before = numeric_date(not_before).ok_or(TokenError::NotBeforeMalformed)?;
            if now.saturating_add(self.leeway()) < not_before {
                return Err(TokenError::NotYetValid);
            }
        }
        Ok(expires)
    }

    /// Checks `iss`, `aud` and the subject.
    fn check_parties(&self, claims: &Members) -> Result<(), TokenError> {
        self.check_issuer(claims)?;
        self.check_audience(claims)?;
        let path = &self.config.subject_claim;
        let subject = claims.get(path.as_str()).and_then(Claim::scalar_text).filter(|subject| !subject.is_empty());
        match subject {
            Some(subject) if subject.len() > MAX_SUBJECT_BYTES => Err(TokenError::SubjectTooLong),
            // `sub` is optional (RFC 7519 section 4.1.2). A claim that the operator named is not.
            None if path.as_str() != "sub" => Err(TokenError::SubjectMissing),
            _ => Ok(()),
        }
    }

    fn check_issuer(&self, claims: &Members) -> Result<(), TokenError> {
        let claimed = claims.get("iss").and_then(Claim::as_text);
        match &self.config.issuer {
            Some(issuer) if claimed != Some(issuer) => Err(TokenError::Issuer),
            _ => Ok(()),
        }
    }

    fn check_audience(&self, claims: &Members) -> Result<(), TokenError> {
        if self.config.audience.is_empty() || claims.get("aud").is_some_and(|audience| self.is_audience(audience)) {
            Ok(())
        } else {
            Err(TokenError::Audience)
        }
    }

    /// Whether `aud` contains a value of the audience. It is a string, or an array of strings only (RFC 7519 section
    /// 4.1.3).
    fn is_audience(&self, claim: &Claim) -> bool {
        let ours =
            |value: &Claim| value.as_text().is_some_and(|name| self.config.audience.iter().any(|own| own == name));
        match claim {
            Claim::List(values) => values.iter().all(|value| value.as_text().is_some()) && values.iter().any(ours),
            other => ours(other),
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("sources", &self.config.sources)
            .field("keys", &self.config.keys)
            .field("algorithms", &self.config.algorithms)
            .field("issuer", &self.config.issuer)
            .field("audience", &self.config.audience)
            .field("subject_claim", &self.config.subject_claim)
            .field("leeway", &self.leeway())
            .finish_non_exhaustive()
    }
}

/// The members of the JOSE header that select the key.
struct Header {
    algorithm: Algorithm,
    kid: Option<String>,
}

impl Header {
    fn parse(json: &[u8]) -> Result<Self, TokenError> {
        let explain = |error| match error {
            ObjectError::Malformed => TokenError::HeaderMalformed,
            ObjectError::Duplicate => TokenError::HeaderDuplicate,
        };
        let object = Object::parse(json).map_err(explain)?;
        if object.get("crit").map_err(explain)?.is_some() {
            return Err(TokenError::Critical);
        }
        if object.get("b64").map_err(explain)?.is_some_and(|b64| b64 != "true") {
            return Err(TokenError::UnencodedPayload);
        }
        let text = |name| match object.get(name).map_err(explain)? {
            Some(json) => serde_json::from_str::<String>(json).map(Some).map_err(|_| TokenError::HeaderMalformed),
            None => Ok(None),
        };
        let algorithm = text("alg")?.ok_or(TokenError::HeaderMalformed)?;
        let algorithm = key::algorithm(&algorithm).ok_or(TokenError::AlgorithmUnknown)?;
        Ok(Self { algorithm, kid: text("kid")? })
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Base64)
}

/// The claims that are kept even if no route uses them: the registered claims (RFC 7519 section 4.1), and `sid`
/// (OpenID Connect Front-Channel Logout section 3).
pub const KEPT: [&str; 8] = ["sub", "iss", "aud", "exp", "nbf", "iat", "jti", "sid"];

/// The maximum leeway. A clock that is off by more than five minutes is broken.
pub const MAX_LEEWAY: Duration = Duration::from_mins(5);

/// The maximum length of the subject. `OpenID` Connect Core section 2 allows 255 ASCII characters.
pub const MAX_SUBJECT_BYTES: usize = 256;

/// The maximum total cost of the signature checks of one token: without a `kid`, any key of its algorithm could have
/// signed it. A check costs 2 with a key on P-384 or an RSA key above 4096 bits, and 1 with any other key. At most
/// eight keys are therefore tried, or four expensive ones; a token signed by a later key needs a `kid`.
pub const MAX_KEYS_COST: usize = 8;

#[cfg(test)]
pub(super) mod tests;
