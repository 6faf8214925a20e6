//! The claims of a verified token, and the headers that carry some of them to the upstream.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use http::{HeaderName, HeaderValue};
use jsonwebtoken::Algorithm;

use super::claim_path::ClaimPath;
use super::header_value::header_value;
use super::key::KeyId;
#[cfg(test)]
use super::members::Wanted;
use super::members::{Claim, Members, numeric_date};

/// The claims of a client: those of a verified token, or the answer of a forward authentication service. Only the
/// verifier and [`ForwardAuth`](super::forward::ForwardAuth) create them, so they are proof of the check.
#[derive(Clone, PartialEq)]
pub struct Claims {
    members: Arc<Members>,
    /// The name of the claim that is the subject.
    subject_claim: Arc<str>,
    token: Option<(Duration, Signer)>,
}

/// The key that verified a token, and the algorithm that it was used with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    /// The key.
    pub key: KeyId,
    /// The algorithm of the signature.
    pub algorithm: Algorithm,
}

impl Claims {
    pub(super) fn new(members: Arc<Members>, subject_claim: Arc<str>, expires: Duration, signer: Signer) -> Self {
        Self { members, subject_claim, token: Some((expires, signer)) }
    }

    /// Creates the claims of an answer that admits a client. The answer itself has the subject.
    pub(super) fn of_answer(members: Members) -> Self {
        Self { members: Arc::new(members), subject_claim: "".into(), token: None }
    }

    /// Returns the key that verified the token; `None` if the claims are not those of a token.
    pub(super) fn signer(&self) -> Option<Signer> {
        self.token.map(|(_, signer)| signer)
    }

    /// Returns the subject: `sub` (RFC 7519 section 4.1.2), or the claim that the section names instead, if it is a
    /// string that is not empty. It has at most [`MAX_SUBJECT_BYTES`](super::token::MAX_SUBJECT_BYTES), since a token
    /// with a longer one is rejected. Numbers and booleans, which some issuers use against the RFC, count as their JSON
    /// text, as they do in a [`Requirement`](super::requirement::Requirement): the number `1` and the string `"1"` are
    /// the same subject. Null, arrays, objects and an empty string are not subjects.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.members.get(&self.subject_claim)?.scalar_text().filter(|subject| !subject.is_empty())
    }

    /// Returns `exp` (RFC 7519 section 4.1.4), counted from the Unix epoch, without leeway; `None` if the claims are
    /// not those of a token.
    #[must_use]
    pub fn expires(&self) -> Option<Duration> {
        self.token.map(|(expires, _)| expires)
    }

    /// Returns `jti` (RFC 7519 section 4.1.7).
    pub(super) fn token_id(&self) -> Option<&str> {
        self.members.get("jti")?.scalar_text()
    }

    /// Returns `sid` (`OpenID` Connect Front-Channel Logout section 3).
    pub(super) fn session_id(&self) -> Option<&str> {
        self.members.get("sid")?.scalar_text()
    }

    /// Returns `iat` (RFC 7519 section 4.1.6), counted from the Unix epoch.
    pub(super) fn issued(&self) -> Option<Duration> {
        numeric_date(self.members.get("iat")?)
    }

    /// Returns a claim. Only the claims that the verifier keeps can be found.
    pub(super) fn get(&self, path: &ClaimPath) -> Option<&Claim> {
        self.members.get(path.as_str())
    }
}

#[cfg(test)]
impl Claims {
    /// Returns the claims of a token for a verifier that keeps these names, with the subject `sub`.
    pub(super) fn of_test(payload: &str, names: &[&str]) -> Self {
        let wanted = Wanted::new([], names.iter().map(|name| name.parse().unwrap()));
        let members = Members::parse(payload.as_bytes(), &wanted).unwrap();
        Self::new(Arc::new(members), "sub".into(), Duration::from_secs(1), Signer::of_test())
    }
}

#[cfg(test)]
impl Signer {
    /// Returns a key for tests.
    pub(super) fn of_test() -> Self {
        Self { key: KeyId::of_test(), algorithm: Algorithm::ES256 }
    }
}

/// Shows names only: the values are personal data.
impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claims ")?;
        f.debug_set().entries(self.members.names()).finish()
    }
}

/// A claim that the route forwards cannot be written as a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unforwardable;

/// Returns the headers that carry claims to the upstream. A claim that is missing, `null`, or an empty string or array
/// adds no header.
///
/// Strings are sent unchanged, numbers and booleans as JSON text, an array of strings joined with commas. A value must
/// be visible ASCII, with spaces only between other characters, and at most [`MAX_FORWARD_BYTES`] long, so that it
/// cannot end the header and begin another. The caller must first remove these headers from the client's request.
///
/// # Errors
/// If a claim has any other value. Without its header the client would look like one whose token lacks the claim.
pub fn forward(
    claims: &Claims,
    rules: &[(ClaimPath, HeaderName)],
) -> Result<Vec<(HeaderName, HeaderValue)>, Unforwardable> {
    let mut headers = Vec::new();
    for (claim, name) in rules {
        let Some(value) = claims.get(claim).filter(|value| has_value(value)) else { continue };
        let value = header_text(value).and_then(|text| header_value(&text, MAX_FORWARD_BYTES)).ok_or(Unforwardable)?;
        headers.push((name.clone(), value));
    }
    Ok(headers)
}

/// Returns a header name as an upstream may read it. Many upstreams map headers to environment variables (RFC 3875
/// section 4.1.18), where names that differ only in characters other than letters and digits are the same.
pub fn canonical_header_name(name: &HeaderName) -> String {
    let read = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    name.as_str().chars().map(read).collect()
}

fn has_value(value: &Claim) -> bool {
    match value {
        Claim::Null => false,
        Claim::Text(header_text) => !header_text.is_empty(),
        Claim::List(values) => !values.is_empty(),
        Claim::Bool(_) | Claim::Number(_) | Claim::EmptyObject | Claim::Nested | Claim::Malformed => true,
    }
}

/// Returns the text of a claim in a header, if it has one.
fn header_text(value: &Claim) -> Option<Cow<'_, str>> {
    match value {
        Claim::List(values) => {
            // The upstream would read an element that contains a comma as two.
            let words = values.iter().map(|value| value.as_text().filter(|word| !word.contains(',')));
            Some(words.collect::<Option<Vec<_>>>()?.join(",").into())
        }
        scalar => scalar.scalar_text().map(Cow::Borrowed),
    }
}

/// The maximum length of a header value that carries a claim.
pub const MAX_FORWARD_BYTES: usize = 1024;

#[cfg(test)]
mod tests;
