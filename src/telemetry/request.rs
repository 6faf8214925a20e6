//! The parts of a request that the log shows: its id, its target and its origin.

use std::fmt;

/// Identifies a request in the log and, as `X-Request-ID`, at the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId(pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The target and the origin of a request as the log shows them, each part truncated. The query is omitted because it
/// may contain a token.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestSummary<'a> {
    host: Option<&'a str>,
    path: Option<&'a str>,
    origin: Option<&'a str>,
}

impl<'a> RequestSummary<'a> {
    /// Truncates each part.
    pub fn new(host: Option<&'a str>, path: Option<&'a str>, origin: Option<&'a str>) -> Self {
        Self { host: host.map(super::truncate), path: path.map(super::truncate), origin: origin.map(super::truncate) }
    }

    /// Returns the host.
    pub fn host(self) -> Option<&'a str> {
        self.host
    }

    /// Returns the path.
    pub fn path(self) -> Option<&'a str> {
        self.path
    }

    /// Returns the `Origin`.
    pub fn origin(self) -> Option<&'a str> {
        self.origin
    }

    /// Returns an owned copy, for a session's lifetime.
    pub fn keep(self) -> OwnedRequestSummary {
        let text = |part: Option<&str>| part.map(Box::from);
        OwnedRequestSummary([text(self.host), text(self.path), text(self.origin)])
    }
}

/// The target and the origin of a session's request, kept until the session ends.
#[derive(Debug)]
pub struct OwnedRequestSummary([Option<Box<str>>; 3]);

impl OwnedRequestSummary {
    /// Borrows the summary.
    pub fn summary(&self) -> RequestSummary<'_> {
        let [host, path, origin] = self.0.each_ref().map(Option::as_deref);
        RequestSummary { host, path, origin }
    }
}
