//! The conditions that a route sets on the claims of a token.

use super::claim_path::ClaimPath;
use super::claims::Claims;
use super::members::Claim;
use super::pattern::Params;
use super::template::Template;

/// One condition on a claim, as in `require = { scope = "chat:write", room = ["lobby", "{room}"] }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    claim: ClaimPath,
    condition: Condition,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    AnyOf(Vec<Template>),
    Present,
}

impl Requirement {
    /// Creates the condition that a claim has one of these values. Without a value the condition is never met.
    pub fn any_of(claim: ClaimPath, values: Vec<Template>) -> Self {
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

/// The claims whose string is a list of words: `scope` (RFC 8693 section 4.2), and the name that some issuers give it.
const SCOPE_CLAIMS: [&str; 2] = ["scope", "scp"];

#[cfg(test)]
mod tests;
