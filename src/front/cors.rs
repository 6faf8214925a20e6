//! Permits pages of a route's origins to send requests to an endpoint of the route (Fetch standard, CORS protocol).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::policy::origin::Origins;

/// How long a browser may remember the permission of a preflight request.
const MAX_AGE_SECONDS: u64 = 600;

/// Returns the headers of a response to a page: its origin is permitted if the route admits it. `with_cookies` is
/// whether the page may read the response to a request with cookies.
pub(super) fn headers(origins: &Origins, request: &HeaderMap, with_cookies: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(VARY, HeaderValue::from_name(ORIGIN));
    let origin = request.get(ORIGIN).filter(|origin| origins.allow(Some(origin.as_bytes())));
    let Some(origin) = origin else { return headers };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after, x-request-id"));
    if with_cookies {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    headers
}

/// Whether the request is the preflight request of a browser for this method.
pub(super) fn is_preflight(request: &HeaderMap, method: &Method) -> bool {
    request.get(ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|wanted| wanted.as_bytes() == method.as_str().as_bytes())
}

/// Adds the permission to send requests with this method and with a token in `Authorization`.
pub(super) fn permit(headers: &mut HeaderMap, method: &'static str) {
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(method));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS.into());
}
