//! `OpenID` Connect Back-Channel Logout 1.0: the check of a logout token, and the revocations that it causes.
//!
//! The token is the only credential of the request. It is verified by the keys and algorithms of the `[auth]` section
//! (section 2.6, with section 2.4 for its claims). Explicit typing is recommended and not required there; a token with
//! the type of another kind is rejected, as an access token with the type of a logout token is.

pub mod state;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::host::HostPattern;
use super::members::{Object, ObjectError};
use super::path::Path;
use super::pattern::PathPattern;
use super::revocation::entry::{Kind, Revocation, RevocationId, Target, VALUE_MAX_CHARS};
use super::route::{AuthKind, AuthMethod};
use super::token::{TokenError, Verifier};
use super::token_type::{LOGOUT, UNTYPED, token_type};

/// The member of `events` that makes a token a logout token (section 2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// The note of a revocation that a logout caused.
const REASON: &str = "back-channel logout";
/// The maximum number of logout tokens that are remembered.
const RECENT_MAX: usize = 16_384;

/// The rules of one `[auth]` section for logout tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogoutRules {
    /// The path to which the issuer sends them, without placeholders.
    pub path: PathPattern,
    /// `aud` must contain one of these.
    pub audience: Vec<String>,
}

/// The place at which one `[auth]` section receives logout tokens.
#[derive(Debug)]
pub struct LogoutEndpoint {
    /// The section.
    pub method: Arc<AuthMethod>,
    /// Its rules.
    pub rules: LogoutRules,
    /// The hosts of the routes that use the section.
    pub hosts: Vec<HostPattern>,
}

/// The claims of a logout token that was verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Logout {
    subject: Option<String>,
    sid: Option<String>,
    jti: String,
    issued: Duration,
    expires: Duration,
}

/// Why a logout failed. The reason is logged, and not sent to the issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogoutError {
    /// The request is not a form with one `logout_token` (section 2.5).
    Form,
    /// The token is not a JWS of this issuer (section 2.6, steps 2 and 3).
    Token(TokenError),
    /// `typ` is that of another kind of token (section 4.1).
    Type,
    /// The payload is not a JSON object, has a member twice, or a member of the wrong type.
    Claims,
    /// `iss` is not the section's issuer (step 4).
    Issuer,
    /// `aud` contains no value of the audience of logout tokens (step 4).
    Audience,
    /// `iat` is missing or in the future (step 4).
    Issued,
    /// `exp` is missing or not in the future (step 4).
    Expires,
    /// There is neither `sub` nor `sid` (step 5), or one that no token can have; or only `sub`, and the section names
    /// subjects by another claim.
    Target,
    /// `events` has no object for the event of a logout (step 6).
    Events,
    /// There is a `nonce` (step 7).
    Nonce,
    /// `jti` is missing (section 2.4), or longer than any that is accepted.
    Id,
    /// The same token was received before (step 8).
    Replayed,
    /// The revocation could not be made or stored.
    NotStored,
    /// Too many logouts are in progress.
    Busy,
    /// The keys that verify tokens were not fetched in time.
    NoKeys,
}

impl LogoutError {
    /// Returns the name of the rule in logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Token(error) => error.label(),
            Self::Type => "type",
            Self::Claims => "claims",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Issued => "issued",
            Self::Expires => "expires",
            Self::Target => "target",
            Self::Events => "events",
            Self::Nonce => "nonce",
            Self::Id => "jti",
            Self::Replayed => "replayed",
            Self::NotStored => "not_stored",
            Self::Busy => "busy",
            Self::NoKeys => "no_keys",
        }
    }
}

impl From<ObjectError> for LogoutError {
    fn from(_: ObjectError) -> Self {
        Self::Claims
    }
}

impl LogoutEndpoint {
    /// Whether it receives the logout tokens of this host and path.
    pub fn serves(&self, host: &str, path: &Path) -> bool {
        self.rules.path.matches(path).is_some() && self.hosts.iter().any(|pattern| pattern.matches(host))
    }

    /// Whether this section can have issued a token: if several share a path, the first that can decides.
    pub fn recognizes(&self, token: &str) -> bool {
        matches!(&self.method.kind, AuthKind::Token(verifier) if verifier.recognizes_issuer(token))
    }

    /// Verifies a logout token at `now`, counted from the Unix epoch.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn verify(&self, token: &str, now: Duration) -> Result<Logout, LogoutError> {
        let AuthKind::Token(verifier) = &self.method.kind else { return Err(LogoutError::Issuer) };
        let payload = verifier.verify_signature(token).map_err(LogoutError::Token)?;
        // The signature covers the header.
        if !matches!(token_type(token).as_deref(), None | Some(LOGOUT | UNTYPED)) {
            return Err(LogoutError::Type);
        }
        check(&payload, verifier, &self.rules, now)
    }
}

fn check(payload: &[u8], verifier: &Verifier, rules: &LogoutRules, now: Duration) -> Result<Logout, LogoutError> {
    let claims = Object::parse(payload)?;
    let leeway = verifier.leeway();
    let claimed: Option<String> = member(&claims, "iss")?;
    if claimed.is_none() || claimed != verifier.config().issuer {
        return Err(LogoutError::Issuer);
    }
    if !audience(&claims)?.iter().any(|one| rules.audience.contains(one)) {
        return Err(LogoutError::Audience);
    }
    let issued = time(&claims, "iat", LogoutError::Issued)?;
    if issued > now.saturating_add(leeway) {
        return Err(LogoutError::Issued);
    }
    let expires = time(&claims, "exp", LogoutError::Expires)?.saturating_add(leeway);
    if now >= expires {
        return Err(LogoutError::Expires);
    }
    let (subject, sid) = (member::<String>(&claims, "sub")?, member::<String>(&claims, "sid")?);
    let is_value = |text: &String| !text.is_empty() && text.chars().nth(VALUE_MAX_CHARS).is_none();
    if (subject.is_none() && sid.is_none()) || ![&subject, &sid].into_iter().flatten().all(is_value) {
        return Err(LogoutError::Target);
    }
    let events = claims.get("events")?.ok_or(LogoutError::Events)?;
    let events = Object::parse(events.as_bytes()).map_err(|_| LogoutError::Events)?;
    let event = events.get(EVENT)?.ok_or(LogoutError::Events)?;
    Object::parse(event.as_bytes()).map_err(|_| LogoutError::Events)?;
    if claims.get("nonce")?.is_some() {
        return Err(LogoutError::Nonce);
    }
    let jti: String = member(&claims, "jti")?.filter(is_value).ok_or(LogoutError::Id)?;
    // Subjects are named by another claim, which a logout token does not have.
    let subject = subject.filter(|_| verifier.config().subject_claim.as_str() == "sub");
    if subject.is_none() && sid.is_none() {
        return Err(LogoutError::Target);
    }
    Ok(Logout { subject, sid, jti, issued, expires })
}

/// Reads a member; null counts as absent.
fn member<T: DeserializeOwned>(claims: &Object<'_>, name: &str) -> Result<Option<T>, LogoutError> {
    let Some(json) = claims.get(name)? else { return Ok(None) };
    serde_json::from_str(json).map_err(|_| LogoutError::Claims)
}

/// Reads `aud`: a string, or an array of strings (RFC 7519 section 4.1.3).
fn audience(claims: &Object<'_>) -> Result<Vec<String>, LogoutError> {
    let Some(json) = claims.get("aud")? else { return Ok(Vec::new()) };
    let one = serde_json::from_str(json).map(|one: String| vec![one]);
    one.or_else(|_| serde_json::from_str(json)).map_err(|_| LogoutError::Claims)
}

fn time(claims: &Object<'_>, name: &str, missing: LogoutError) -> Result<Duration, LogoutError> {
    let seconds: f64 = member(claims, name)?.ok_or(missing)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| missing)
}

impl Logout {
    /// Returns the revocations that it causes (section 2.7), which end at `expires`: those of the session, if it names
    /// one, and of all tokens of the subject that were issued before otherwise. Tokens without a `sid` may belong to
    /// the session, so those of the subject are revoked, too.
    pub fn revocations(&self, auth: &str, now: Duration, expires: Duration) -> Vec<Revocation> {
        let Self { subject, sid, issued, .. } = self;
        let entry = |kind, value: &str, issued_before| {
            let target = Target::new(kind, Some(auth), value)?;
            Some(Revocation { target, issued_before, expires, created: now, reason: Some(REASON.into()) })
        };
        // A time in seconds covers the tokens of its whole second. The issuer's clock may be ahead of this one.
        let before = Some(issued.saturating_add(Duration::from_secs(1)).max(now));
        let kind = if sid.is_some() { Kind::SubjectWithoutSession } else { Kind::Subject };
        let session = sid.as_deref().and_then(|sid| entry(Kind::Session, sid, None));
        let subject = subject.as_deref().and_then(|subject| entry(kind, subject, before));
        session.into_iter().chain(subject).collect()
    }

    /// Returns the key by which the token is remembered: its `jti`, in its section.
    fn key(&self, auth: &str) -> RevocationId {
        RevocationId::of(Kind::Token, Some(auth), &self.jti)
    }
}

/// Shows no claim: they are personal data.
impl fmt::Debug for Logout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logout").finish_non_exhaustive()
    }
}

/// The logout tokens that were received, until they expire (section 2.6, step 8). If there are too many, the one that
/// expires first is forgotten.
#[derive(Debug, Default)]
pub struct RecentLogouts(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    known: HashSet<RevocationId>,
    by_end: BTreeSet<(Duration, RevocationId)>,
}

impl RecentLogouts {
    /// Remembers a token.
    ///
    /// # Errors
    /// If it is known.
    pub fn note(&self, logout: &Logout, auth: &str, now: Duration) -> Result<(), LogoutError> {
        let key = logout.key(auth);
        // The sets are consistent after every step.
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(first) = recent.by_end.first().copied() {
            if first.0 > now && recent.by_end.len() < RECENT_MAX {
                break;
            }
            recent.by_end.remove(&first);
            recent.known.remove(&first.1);
        }
        if !recent.known.insert(key) {
            return Err(LogoutError::Replayed);
        }
        recent.by_end.insert((logout.expires, key));
        Ok(())
    }

    /// Forgets a token whose logout failed, so that the issuer can send it again.
    pub fn forget(&self, logout: &Logout, auth: &str) {
        let key = logout.key(auth);
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.known.remove(&key);
        recent.by_end.remove(&(logout.expires, key));
    }
}

#[cfg(test)]
mod tests;
