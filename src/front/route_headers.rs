//! The headers that a route adds to its responses.

use http::header::{SERVER, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, HeaderValue};

use crate::policy::route::RouteConfig;

/// Adds the headers of a route to one of its responses. `has_tls`: the client connected with TLS.
pub(super) fn add(headers: &mut HeaderMap, route: &RouteConfig, has_tls: bool) {
    // A browser ignores it in a response without TLS (RFC 6797 section 8.1).
    if let Some(hsts) = route.hsts.filter(|_| has_tls)
        && let Ok(value) = HeaderValue::try_from(format!("max-age={}", hsts.as_secs()))
    {
        headers.insert(STRICT_TRANSPORT_SECURITY, value);
    }
    if route.server_header {
        headers.insert(SERVER, HeaderValue::from_static("tollgate"));
    }
}
