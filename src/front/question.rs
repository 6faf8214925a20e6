//! The question about a request that the service of a forward authentication section is asked.

use http::{HeaderName, HeaderValue};

use super::headers;
use crate::policy::forward::Question;
use crate::policy::request::RequestFacts;

/// Returns the question about a request. Its headers are those of the client that are not about its connection or the
/// opening handshake, and what the client asked for, in the headers of Traefik and Caddy (`X-Forwarded-*`) and in those
/// that nginx is configured to send (`X-Original-*`).
pub fn about(facts: &RequestFacts<'_>) -> Question {
    let mut headers = headers::of_client(facts.headers, &[], &[]);
    let target = facts.query.map_or_else(|| facts.path.to_owned(), |query| format!("{}?{query}", facts.path));
    let scheme = facts.scheme.as_str();
    let url = format!("{scheme}://{}{target}", facts.authority);
    let address = facts.address.to_canonical().to_string();
    let added = [
        ("x-forwarded-for", address.as_str()),
        ("x-forwarded-proto", scheme),
        ("x-forwarded-host", facts.authority),
        ("x-forwarded-method", facts.kind.method()),
        ("x-forwarded-uri", &target),
        ("x-original-method", facts.kind.method()),
        ("x-original-url", &url),
    ];
    for (name, value) in added {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    Question::new(headers)
}
