//! What the log shows of a request: its id, its target and its origin.

use std::fmt;

/// Names one request in our log and, as a header, in the upstream's.
#[derive(Debug, Clone, Copy)]
pub struct RequestId(pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The target and the origin of a request, as the log shows them: each part cut. The query is left out, since it may hold a token.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestSummary<'a> {
    host: Option<&'a str>,
    path: Option<&'a str>,
    origin: Option<&'a str>,
}

impl<'a> RequestSummary<'a> {
    /// Of these parts.
    pub fn new(host: Option<&'a str>, path: Option<&'a str>, origin: Option<&'a str>) -> Self {
        Self { host: host.map(super::truncate), path: path.map(super::truncate), origin: origin.map(super::truncate) }
    }

    /// The host.
    pub fn host(self) -> Option<&'a str> {
        self.host
    }

    /// The path.
    pub fn path(self) -> Option<&'a str> {
        self.path
    }

    /// The `Origin`.
    pub fn origin(self) -> Option<&'a str> {
        self.origin
    }

    /// The same, kept for as long as a session lasts.
    pub fn keep(self) -> OwnedRequestSummary {
        let text = |part: Option<&str>| part.map(Box::from);
        OwnedRequestSummary(Box::new([text(self.host), text(self.path), text(self.origin)]))
    }
}

/// The target and the origin of a session's request, kept up to its end.
#[derive(Debug)]
pub struct OwnedRequestSummary(Box<[Option<Box<str>>; 3]>);

impl OwnedRequestSummary {
    /// To be shown.
    pub fn summary(&self) -> RequestSummary<'_> {
        let [host, path, origin] = self.0.each_ref().map(Option::as_deref);
        RequestSummary { host, path, origin }
    }
}
