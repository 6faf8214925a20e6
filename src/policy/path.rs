//! The path of a request target, decoded and normalised, or refused.

/// A request path that every party on the way reads in the same way: decoded once, without `.`, `..`, empty segments
/// in the middle, encoded slashes or controls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    segments: Vec<String>,
}

/// Why a path is refused: it could mean one thing to the policy and another to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {}

impl Path {
    /// Reads the path part of a request target (without query).
    pub fn parse(_path: &str) -> Result<Self, PathError> {
        todo!()
    }
    /// The decoded segments; `/` alone has one empty segment.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }
}
