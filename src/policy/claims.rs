//! What a verified token says, what a route requires of it, and what of it the upstream is told.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::members::{Claim, Members};
use super::pattern::Params;

/// The claims of a verified token. Only the verifier makes them, so to have them is to have checked them.
#[derive(Clone, PartialEq)]
pub struct Claims {
    members: Arc<Members>,
    expires: Duration,
}

impl Claims {
    pub(super) fn new(members: Arc<Members>, expires: Duration) -> Self {
        Self { members, expires }
    }

    /// `sub` (RFC 7519 section 4.1.2), if it is a string that is not empty; at most
    /// [`MAX_SUBJECT_BYTES`](super::token::MAX_SUBJECT_BYTES), since a token with a longer one is refused. Numbers and
    /// booleans, which some issuers use against the RFC, count as their JSON text, as they do in a [`Requirement`]: the
    /// number `1` and the string `"1"` are one subject. Null, arrays, objects and an empty string are no subject.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.members.get("sub")?.scalar_text().filter(|subject| !subject.is_empty())
    }

    /// `exp` (RFC 7519 section 4.1.4), counted from the Unix epoch, without leeway.
    #[must_use]
    pub fn expires(&self) -> Duration {
        self.expires
    }

    /// The claim of this name; else, for `realm.role`, the member `role` of the object `realm`. Only the claims that the
    /// verifier was made for are there.
    fn get(&self, name: &str) -> Option<&Claim> {
        self.members.get(name)
    }
}

/// Names only: the values are about a person.
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

/// Why a requirement cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequirementError {
    /// The claim has no name.
    EmptyClaim,
    /// A `{` without `}`, or a `}` without `{`.
    UnbalancedBraces,
    /// The placeholder has no name, or one with other characters than letters, digits, `_` and `-`.
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
    /// `value` may hold placeholders of the route's path: `{room}`.
    ///
    /// # Errors
    /// The claim needs a name and the value well-formed placeholders; there is no way to write a literal brace.
    pub fn new(claim: &str, value: &str) -> Result<Self, RequirementError> {
        if claim.is_empty() {
            return Err(RequirementError::EmptyClaim);
        }
        Ok(Self { claim: claim.to_owned(), value: template_parts(value)? })
    }

    /// The name of the claim.
    pub fn claim(&self) -> &str {
        &self.claim
    }

    /// The placeholders that it needs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.value.iter().filter_map(|piece| match piece {
            TemplatePart::Placeholder(name) => Some(name.as_str()),
            TemplatePart::Text(_) => None,
        })
    }

    /// Whether the claims meet it: the claim is the value, or an array with the value in it. Numbers and booleans
    /// count as their JSON text. `scope` and `scp` may be a string of words with spaces between, of which one must be
    /// the value (RFC 8693 section 4.2). A placeholder that the path did not fill is never met.
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

/// A claim that the upstream is to be told of cannot stand in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unforwardable;

/// The headers that tell the upstream the claims. A claim that says nothing gives none: it is missing, `null`, or an empty
/// string or array.
///
/// Strings go as they are, numbers and booleans as JSON text, an array of strings joined with commas. A value must be
/// visible ASCII, with spaces at most within, and at most [`MAX_FORWARD_BYTES`] long: so it cannot end the header and
/// begin another. Whoever sends the request upstream must first take out these headers as the client sent them.
///
/// # Errors
/// If a claim says something else. To leave it out would make the client look like one of whom less is known.
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

/// The name of a header as an upstream may read it: many keep headers as variables of an environment (RFC 3875 section
/// 4.1.18), where names that differ only in what is no letter or digit are the same.
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

/// A claim as the text of a header, if it can be one.
fn header_text(value: &Claim) -> Option<Cow<'_, str>> {
    match value {
        Claim::List(values) => {
            // An element with a comma in it would reach the upstream as two.
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

/// The longest value of a header that carries a claim.
pub const MAX_FORWARD_BYTES: usize = 1024;

/// The claims whose string is a list of words: RFC 8693 section 4.2, and what some issuers call it.
const SCOPE_CLAIMS: [&str; 2] = ["scope", "scp"];

#[cfg(test)]
mod tests;
