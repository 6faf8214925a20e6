//! One revocation: the tokens that it concerns, and its end.

use std::fmt;
use std::mem::size_of;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use aws_lc_rs::digest::{Context, SHA256};

use super::super::claims::Claims;

/// The maximum length of a `sub`, `jti` or `sid` that can be revoked, in characters.
pub const VALUE_MAX_CHARS: usize = 256;
/// The memory of an entry besides its texts: the value behind its `Arc`, its slot in a map of which half is in use, and
/// its place in the order.
const ENTRY_BYTES: usize = size_of::<Revocation>() + 2 * 2 * size_of::<(RevocationId, usize)>() + 128;

/// The claim by which a revocation names tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// `jti` (RFC 7519 section 4.1.7): one token.
    Token,
    /// The subject of an `[auth]` section.
    Subject,
    /// `sid`: the tokens of one session at the issuer (`OpenID` Connect Front-Channel Logout section 3).
    Session,
    /// The subject of an `[auth]` section, only of tokens without a `sid`.
    SubjectWithoutSession,
}

impl Kind {
    /// Returns the name of the claim.
    pub fn label(self) -> &'static str {
        match self {
            Self::Token => "jti",
            Self::Subject | Self::SubjectWithoutSession => "subject",
            Self::Session => "sid",
        }
    }
}

/// The tokens that a revocation concerns.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    kind: Kind,
    /// The name of the `[auth]` section; `None`: any. A subject has one.
    auth: Option<Box<str>>,
    value: Box<str>,
}

/// The id of a revocation: a hash of its target. Equal targets have equal ids, in every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevocationId(pub u128);

/// A revocation.
#[derive(Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The tokens.
    pub target: Target,
    /// Only tokens that were issued before this time, since the Unix epoch, or that do not say when.
    pub issued_before: Option<Duration>,
    /// The end of the revocation, since the Unix epoch.
    pub expires: Duration,
    /// The time at which it was made, since the Unix epoch.
    pub created: Duration,
    /// A note of the operator.
    pub reason: Option<Box<str>>,
}

/// The claims of a token by which it can be revoked, as a session keeps them.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenIds {
    jti: Option<Box<str>>,
    sid: Option<Box<str>>,
    issued: Option<Duration>,
}

/// A client, as revocations see it.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The name of the `[auth]` section that admitted it.
    pub auth: &'a str,
    /// Its subject.
    pub subject: Option<&'a str>,
    /// The claims of its token, if it has one.
    pub token: Option<&'a TokenIds>,
}

impl Target {
    /// Creates a target. `None` if a subject has no section, or the value is empty or longer than [`VALUE_MAX_CHARS`].
    pub fn new(kind: Kind, auth: Option<&str>, value: &str) -> Option<Self> {
        let needs_auth = matches!(kind, Kind::Subject | Kind::SubjectWithoutSession);
        let is_valid = !value.is_empty() && is_short(value) && (auth.is_some() || !needs_auth);
        is_valid.then(|| Self { kind, auth: auth.map(Box::from), value: value.into() })
    }

    /// Returns the claim.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the name of the `[auth]` section; `None`: any.
    pub fn auth(&self) -> Option<&str> {
        self.auth.as_deref()
    }

    /// Returns the value of the claim.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Returns the id of its revocation.
    pub fn id(&self) -> RevocationId {
        RevocationId::of(self.kind, self.auth(), &self.value)
    }
}

impl RevocationId {
    /// Returns the first half of the SHA-256 of a target. No name of a section contains a NUL.
    pub(in super::super) fn of(kind: Kind, auth: Option<&str>, value: &str) -> Self {
        let mut context = Context::new(&SHA256);
        let kind: &[u8] = match kind {
            Kind::Token => b"jti\0",
            Kind::Subject => b"sub\0",
            Kind::Session => b"sid\0",
            Kind::SubjectWithoutSession => b"sub without sid\0",
        };
        for part in [kind, auth.unwrap_or_default().as_bytes(), b"\0", value.as_bytes()] {
            context.update(part);
        }
        let digest = context.finish();
        Self(digest.as_ref().iter().take(size_of::<u128>()).fold(0, |id, byte| id << 8 | u128::from(*byte)))
    }

    /// Parses the form that `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for RevocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Revocation {
    /// Whether it concerns a client.
    pub fn concerns(&self, client: &Identity<'_>) -> bool {
        let Target { kind, auth, value } = &self.target;
        let ids = client.token;
        let own = match kind {
            Kind::Token => ids.and_then(|ids| ids.jti.as_deref()),
            Kind::Session => ids.and_then(|ids| ids.sid.as_deref()),
            Kind::Subject => client.subject,
            Kind::SubjectWithoutSession => client.subject.filter(|_| ids.is_none_or(|ids| ids.sid.is_none())),
        };
        auth.as_deref().is_none_or(|auth| auth == client.auth)
            && own.is_some_and(|own| own == &**value)
            && self.concerns_time(ids.and_then(|ids| ids.issued))
    }

    /// Whether it has ended. If the clock cannot be right, nothing is known to have ended.
    pub fn has_ended(&self, now: Duration) -> bool {
        self.expires <= now && now != Duration::MAX
    }

    /// Whether it concerns all tokens that another one of the same target concerns, and for as long.
    pub fn covers(&self, other: &Self) -> bool {
        let tokens = self.issued_before.is_none_or(|own| other.issued_before.is_some_and(|other| other <= own));
        tokens && other.expires <= self.expires
    }

    /// Whether it concerns a token that was issued at this time.
    pub(super) fn concerns_time(&self, issued: Option<Duration>) -> bool {
        self.issued_before.is_none_or(|before| issued.is_none_or(|issued| issued < before))
    }

    /// Adds another revocation of the same target: no token that either of them concerns is admitted.
    pub(super) fn merge(&mut self, other: Self) {
        self.issued_before = self.issued_before.zip(other.issued_before).map(|(own, other)| own.max(other));
        self.expires = self.expires.max(other.expires);
        self.created = self.created.max(other.created);
        self.reason = other.reason.or(self.reason.take());
    }

    /// Returns its memory.
    pub(super) fn bytes(&self) -> usize {
        let Target { auth, value, .. } = &self.target;
        let texts = [auth.as_deref(), Some(&**value), self.reason.as_deref()];
        texts.into_iter().flatten().fold(ENTRY_BYTES, |bytes, text| bytes.saturating_add(text.len()))
    }
}

impl TokenIds {
    /// Takes the claims of a verified token. A `jti` or `sid` that is too long to be revoked is left out.
    pub fn of(claims: &Claims) -> Self {
        let short = |text: &&str| is_short(text);
        Self {
            jti: claims.token_id().filter(short).map(Box::from),
            sid: claims.session_id().filter(short).map(Box::from),
            issued: claims.issued(),
        }
    }

    /// Whether each claim has a length that [`TokenIds::of`] keeps.
    pub(in super::super) fn is_bounded(&self) -> bool {
        [&self.jti, &self.sid].into_iter().flatten().all(|text| is_short(text))
    }

    /// Returns `sid`.
    pub fn session_id(&self) -> Option<&str> {
        self.sid.as_deref()
    }

    pub(super) fn token_id(&self) -> Option<&str> {
        self.jti.as_deref()
    }

    pub(super) fn issued(&self) -> Option<Duration> {
        self.issued
    }
}

fn is_short(value: &str) -> bool {
    value.chars().nth(VALUE_MAX_CHARS).is_none()
}

/// Shows no values: they are personal data.
impl fmt::Debug for TokenIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = [("jti", self.jti.is_some()), ("sid", self.sid.is_some()), ("iat", self.issued.is_some())];
        f.debug_set().entries(given.iter().filter(|(_, given)| *given).map(|(name, _)| name)).finish()
    }
}

/// Shows the kind and the section only.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("kind", &self.kind).field("auth", &self.auth).finish_non_exhaustive()
    }
}

/// Shows no note.
impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, issued_before, expires, .. } = self;
        let mut shown = f.debug_struct("Revocation");
        shown.field("target", target).field("issued_before", issued_before).field("expires", expires);
        shown.finish_non_exhaustive()
    }
}

#[cfg(test)]
impl TokenIds {
    /// Returns these claims, for tests.
    pub(super) fn of_test(jti: Option<&str>, sid: Option<&str>, issued: Option<Duration>) -> Self {
        Self { jti: jti.map(Box::from), sid: sid.map(Box::from), issued }
    }
}
