//! The claims of a verified token: what a route requires of them, and which ones the upstream receives as headers.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use jsonwebtoken::Algorithm;

use super::key::KeyId;
use super::members::{Claim, Members};
use super::pattern::Params;

/// The claims of a client: those of a verified token, or the answer of a forward authentication service. Only the
/// verifier and [`ForwardAuth`](super::forward::ForwardAuth) create them, so they are proof of the check.
#[derive(Clone, PartialEq)]
pub struct Claims {
    members: Arc<Members>,
    token: Option<(Duration, Signer)>,
}

/// The key that verified a token, and the algorithm that it was used with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signer {
    /// The key.
    pub key: KeyId,
    /// The algorithm of the signature.
    pub algorithm: Algorithm,
}

impl Claims {
    pub(super) fn new(members: Arc<Members>, expires: Duration, signer: Signer) -> Self {
        Self { members, token: Some((expires, signer)) }
    }

    /// Creates the claims of an answer that admits a client.
    pub(super) fn of_answer(members: Members) -> Self {
        Self { members: Arc::new(members), token: None }
    }

    /// Returns the key that verified the token; `None` if the claims are not those of a token.
    pub(super) fn signer(&self) -> Option<Signer> {
        self.token.map(|(_, signer)| signer)
    }

    /// Returns `sub` (RFC 7519 section 4.1.2), if it is a string that is not empty. It has at most
    /// [`MAX_SUBJECT_BYTES`](super::token::MAX_SUBJECT_BYTES), since a token with a longer one is rejected. Numbers and
    /// booleans, which some issuers use against the RFC, count as their JSON text, as they do in a [`Requirement`]: the
    /// number `1` and the string `"1"` are the same subject. Null, arrays, objects and an empty string are not
    /// subjects.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.members.get("sub")?.scalar_text().filter(|subject| !subject.is_empty())
    }

    /// Returns `exp` (RFC 7519 section 4.1.4), counted from the Unix epoch, without leeway; `None` if the claims are not
    /// those of a token.
    #[must_use]
    pub fn expires(&self) -> Option<Duration> {
        self.token.map(|(expires, _)| expires)
    }

    /// Returns the claim of this name or else, for `realm.role`, the member `role` of the object `realm`. Only the
    /// claims that the verifier keeps can be found.
    fn get(&self, name: &str) -> Option<&Claim> {
        self.members.get(name)
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

/// One condition on a claim, as in `require = { scope = "chat:write", room = "{room}" }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    claim: String,
    value: Vec<TemplatePart>,
}

/// A part of a required value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TemplatePart {
    Text(String),
    Placeholder(String),
}

/// Why a requirement is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequirementError {
    /// The claim has no name.
    EmptyClaim,
    /// A `{` without `}`, or a `}` without `{`.
    UnbalancedBraces,
    /// The placeholder has no name, or a name with characters other than letters, digits, `_` and `-`.
    PlaceholderName,
}

impl fmt::Display for RequirementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyClaim => "the claim has no name",
            Self::UnbalancedBraces => "the braces of the value are not balanced",
            Self::PlaceholderName => "a placeholder is written `{name}`, with letters, digits, `_` and `-`",
        })
    }
}

impl std::error::Error for RequirementError {}

impl Requirement {
    /// Parses a requirement. `value` may contain placeholders of the route's path: `{room}`.
    ///
    /// # Errors
    /// If the claim has no name, or a placeholder of the value is malformed. A literal brace cannot be written.
    pub fn new(claim: &str, value: &str) -> Result<Self, RequirementError> {
        if claim.is_empty() {
            return Err(RequirementError::EmptyClaim);
        }
        Ok(Self { claim: claim.to_owned(), value: template_parts(value)? })
    }

    /// Returns the name of the claim.
    pub fn claim(&self) -> &str {
        &self.claim
    }

    /// Returns the names of the placeholders in the value.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.value.iter().filter_map(|piece| match piece {
            TemplatePart::Placeholder(name) => Some(name.as_str()),
            TemplatePart::Text(_) => None,
        })
    }

    /// Whether the claims meet the requirement: the claim equals the value, or is an array that contains it. Numbers
    /// and booleans count as their JSON text. `scope` and `scp` may be a string of space-separated words, of which one
    /// must equal the value (RFC 8693 section 4.2). A requirement with a placeholder that the path did not fill is
    /// never met.
    #[must_use]
    pub fn met_by(&self, claims: &Claims, params: &Params) -> bool {
        let Some((wanted, claim)) = self.fill(params).zip(claims.get(&self.claim)) else {
            return false;
        };
        match claim {
            Claim::Text(words) if SCOPE_CLAIMS.contains(&self.claim.as_str()) => {
                words.split(' ').any(|word| !word.is_empty() && word == wanted)
            }
            Claim::List(values) => values.iter().any(|value| value.scalar_text() == Some(&wanted)),
            value => value.scalar_text() == Some(&wanted),
        }
    }

    fn fill<'a>(&'a self, params: &'a Params) -> Option<String> {
        let filled = |piece: &'a TemplatePart| match piece {
            TemplatePart::Text(header_text) => Some(header_text.as_str()),
            TemplatePart::Placeholder(name) => params.get(name),
        };
        self.value.iter().map(filled).collect()
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
    rules: &[(String, HeaderName)],
) -> Result<Vec<(HeaderName, HeaderValue)>, Unforwardable> {
    let mut headers = Vec::new();
    for (claim, name) in rules {
        let Some(value) = claims.get(claim).filter(|value| has_value(value)) else { continue };
        let value = header_text(value).and_then(|header_text| header_value(&header_text)).ok_or(Unforwardable)?;
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
        Claim::Bool(_) | Claim::Number(_) | Claim::Nested | Claim::Malformed => true,
    }
}

fn template_parts(value: &str) -> Result<Vec<TemplatePart>, RequirementError> {
    let mut template_parts = Vec::new();
    let mut rest = value;
    while let Some((header_text, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or(RequirementError::UnbalancedBraces)?;
        let is_name = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(RequirementError::PlaceholderName);
        }
        template_parts.push(text_part(header_text)?);
        template_parts.push(TemplatePart::Placeholder(name.to_owned()));
        rest = after;
    }
    template_parts.push(text_part(rest)?);
    template_parts.retain(|piece| *piece != TemplatePart::Text(String::new()));
    Ok(template_parts)
}

fn text_part(header_text: &str) -> Result<TemplatePart, RequirementError> {
    if header_text.contains('}') {
        Err(RequirementError::UnbalancedBraces)
    } else {
        Ok(TemplatePart::Text(header_text.to_owned()))
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

fn header_value(header_text: &str) -> Option<HeaderValue> {
    let fits = !header_text.is_empty()
        && header_text.len() <= MAX_FORWARD_BYTES
        && header_text.trim_matches(' ') == header_text;
    if !fits || !header_text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return None;
    }
    let mut value = HeaderValue::from_str(header_text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The maximum length of a header value that carries a claim.
pub const MAX_FORWARD_BYTES: usize = 1024;

/// The claims whose string is a list of words: `scope` (RFC 8693 section 4.2), and the name that some issuers give it.
const SCOPE_CLAIMS: [&str; 2] = ["scope", "scp"];

#[cfg(test)]
mod tests;
