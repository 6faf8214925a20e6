//! What a verified token says, what a route requires of it, and what of it the upstream is told.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::route::Params;

/// The claims of a verified token.
#[derive(Clone, PartialEq)]
pub struct Claims {}

impl Claims {
    /// `sub`, if it is a string.
    pub fn subject(&self) -> Option<&str> {
        todo!()
    }
    /// `exp`, counted from the Unix epoch.
    pub fn expires(&self) -> Duration {
        todo!()
    }
}

/// One condition on a claim, as in `require = { scope = "chat:write", room = "{room}" }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {}

/// Why a requirement cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequirementError {}
impl std::fmt::Display for RequirementError {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}

impl Requirement {
    /// `value` may hold placeholders of the route's path: `{room}`.
    pub fn new(_claim: &str, _value: &str) -> Result<Self, RequirementError> {
        todo!()
    }
    /// The placeholders that it needs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }
    /// Whether the claims meet it.
    pub fn met_by(&self, _claims: &Claims, _params: &Params) -> bool {
        todo!()
    }
}

/// The headers that tell the upstream the claims; a claim that is missing or cannot stand in a header gives none.
pub fn forward(_claims: &Claims, _rules: &[(String, HeaderName)]) -> Vec<(HeaderName, HeaderValue)> {
    todo!()
}
