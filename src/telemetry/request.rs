//! The parts of a request that the log shows: its ids, its target and its origin.

use std::fmt;

use http::Method;
use serde::{Deserialize, Serialize};

use super::trace_context::TraceId;

/// The longest method that the log shows as it is.
const METHOD_MAX_BYTES: usize = 32;

/// Returns a method for the log, truncated.
pub(super) fn shown(method: &Method) -> &str {
    let method = method.as_str();
    method.get(..METHOD_MAX_BYTES).unwrap_or(method)
}

/// Identifies a request in the log and, as `X-Request-ID`, at the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The trace, the target and the origin of a request as the log shows them, each text truncated. The query is omitted
/// because it may contain a token.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestSummary<'a> {
    trace_id: Option<TraceId>,
    host: Option<&'a str>,
    path: Option<&'a str>,
    origin: Option<&'a str>,
}

impl<'a> RequestSummary<'a> {
    /// Truncates each text.
    pub fn new(trace_id: TraceId, host: Option<&'a str>, path: Option<&'a str>, origin: Option<&'a str>) -> Self {
        let [host, path, origin] = [host, path, origin].map(|text| text.map(super::truncate));
        Self { trace_id: Some(trace_id), host, path, origin }
    }

    /// Returns the trace id. `None` if the request was not read.
    pub fn trace_id(self) -> Option<TraceId> {
        self.trace_id
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
        OwnedRequestSummary(self.trace_id, [text(self.host), text(self.path), text(self.origin)])
    }
}

/// The trace, the target and the origin of a session's request, kept until the session ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwnedRequestSummary(Option<TraceId>, [Option<Box<str>>; 3]);

impl OwnedRequestSummary {
    /// Borrows the summary.
    pub fn summary(&self) -> RequestSummary<'_> {
        let [host, path, origin] = self.1.each_ref().map(Option::as_deref);
        RequestSummary { trace_id: self.0, host, path, origin }
    }

    /// Whether each text has a length that [`RequestSummary::new`] keeps.
    pub fn is_bounded(&self) -> bool {
        self.1.iter().flatten().all(|text| text.len() <= super::TEXT_MAX_BYTES)
    }

    /// Returns the path, unless it may have been truncated.
    pub fn whole_path(&self) -> Option<&str> {
        let [_, path, _] = &self.1;
        // Truncation at a character boundary removes at most three further bytes.
        path.as_deref().filter(|path| path.len() < super::TEXT_MAX_BYTES.saturating_sub(3))
    }
}
