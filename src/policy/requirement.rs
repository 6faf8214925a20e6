//! The conditions that a route sets on the claims of a token.

use std::fmt;
use std::str::FromStr;

use super::claim_path::ClaimPath;
use super::claims::Claims;
use super::members::Claim;
use super::pattern::Params;

/// One condition on a claim, as in `require = { scope = "chat:write", room = ["lobby", "{room}"] }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    claim: ClaimPath,
    condition: Condition,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    AnyOf(Vec<AcceptedValue>),
    Present,
}

/// A value that a condition accepts. It may contain placeholders of the route's path: `{room}`. A literal brace cannot
/// be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedValue(Vec<ValuePart>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum ValuePart {
    Text(String),
    Placeholder(String),
}

/// Why an accepted value is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueError {
    /// A `{` without `}`, or a `}` without `{`.
    UnbalancedBraces,
    /// The placeholder has no name, or a name with characters other than letters, digits, `_` and `-`.
    PlaceholderName,
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnbalancedBraces => "the braces of the value are not balanced",
            Self::PlaceholderName => "a placeholder is written `{name}`, with letters, digits, `_` and `-`",
        })
    }
}

impl std::error::Error for ValueError {}

impl Requirement {
    /// Creates the condition that a claim has one of these values. Without a value the condition is never met.
    pub fn any_of(claim: ClaimPath, values: Vec<AcceptedValue>) -> Self {
        Self { claim, condition: Condition::AnyOf(values) }
    }

    /// Creates the condition that a claim has any value.
    pub fn present(claim: ClaimPath) -> Self {
        Self { claim, condition: Condition::Present }
    }

    /// Returns the name of the claim.
    pub fn claim(&self) -> &ClaimPath {
        &self.claim
    }

    /// Whether the claims meet the requirement.
    ///
    /// A claim has a value if it equals the value, or is an array that contains it. Numbers and booleans count as their
    /// JSON text. `scope` and `scp` may be a string of space-separated words, of which one must equal the value
    /// (RFC 8693 section 4.2). A value with a placeholder that the path did not fill is not accepted.
    ///
    /// A claim is present unless it is missing, `null`, or an empty string, array or object.
    #[must_use]
    pub fn met_by(&self, claims: &Claims, params: &Params) -> bool {
        let Some(claim) = claims.get(&self.claim) else { return false };
        match &self.condition {
            Condition::AnyOf(values) => {
                values.iter().filter_map(|value| value.fill(params)).any(|wanted| self.has(claim, &wanted))
            }
            Condition::Present => match claim {
                Claim::Null | Claim::EmptyObject | Claim::Malformed => false,
                Claim::Text(text) => !text.is_empty(),
                Claim::List(values) => !values.is_empty(),
                Claim::Bool(_) | Claim::Number(_) | Claim::Nested => true,
            },
        }
    }

    fn has(&self, claim: &Claim, wanted: &str) -> bool {
        match claim {
            Claim::Text(words) if self.claim.member().is_some_and(|name| SCOPE_CLAIMS.contains(&name)) => {
                words.split(' ').any(|word| !word.is_empty() && word == wanted)
            }
            Claim::List(values) => values.iter().any(|value| value.scalar_text() == Some(wanted)),
            value => value.scalar_text() == Some(wanted),
        }
    }
}

impl AcceptedValue {
    /// Returns the names of the placeholders.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            ValuePart::Placeholder(name) => Some(name.as_str()),
            ValuePart::Text(_) => None,
        })
    }

    /// Returns the value, or `None` if the path did not fill a placeholder.
    fn fill<'a>(&'a self, params: &'a Params) -> Option<String> {
        let filled = |part: &'a ValuePart| match part {
            ValuePart::Text(text) => Some(text.as_str()),
            ValuePart::Placeholder(name) => params.get(name),
        };
        self.0.iter().map(filled).collect()
    }
}

impl FromStr for AcceptedValue {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or(ValueError::UnbalancedBraces)?;
            let is_name = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
            if name.is_empty() || !name.chars().all(is_name) {
                return Err(ValueError::PlaceholderName);
            }
            parts.push(text_part(before)?);
            parts.push(ValuePart::Placeholder(name.to_owned()));
            rest = after;
        }
        parts.push(text_part(rest)?);
        parts.retain(|part| *part != ValuePart::Text(String::new()));
        Ok(Self(parts))
    }
}

fn text_part(text: &str) -> Result<ValuePart, ValueError> {
    if text.contains('}') { Err(ValueError::UnbalancedBraces) } else { Ok(ValuePart::Text(text.to_owned())) }
}

/// The claims whose string is a list of words: `scope` (RFC 8693 section 4.2), and the name that some issuers give it.
const SCOPE_CLAIMS: [&str; 2] = ["scope", "scp"];

#[cfg(test)]
mod tests;
