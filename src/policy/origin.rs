//! Which web origins may open a session (RFC 6455 section 10.2, RFC 6454).

use std::str::FromStr;

/// One allowed origin: `https://chat.example.com`, `https://*.example.com`, `http://localhost:3000` or `null`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPattern {}

/// Why an origin pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPatternError {}
impl std::fmt::Display for OriginPatternError {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}

impl FromStr for OriginPattern {
    type Err = OriginPatternError;
    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        todo!()
    }
}

/// What to do with a request that carries no `Origin`: clients that are no browsers send none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingOrigin {
    /// Let it pass.
    Allow,
    /// Refuse it.
    Refuse,
}

/// The origins that a route admits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {}

impl Origins {
    /// `patterns` is `None` where the route lists no origins: then every origin passes.
    pub fn new(_patterns: Option<Vec<OriginPattern>>, _missing: MissingOrigin) -> Self {
        todo!()
    }
    /// Whether a request with this `Origin` header value (None: no such header) may pass.
    pub fn allow(&self, _origin: Option<&[u8]>) -> bool {
        todo!()
    }
}
