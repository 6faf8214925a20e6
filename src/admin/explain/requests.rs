//! Explains rejections of ordinary requests.

use super::facts::{Facts, Words, sentence, words};
use crate::config::keys;
use crate::policy::framing::FramingError;
use crate::policy::rejection::Rejection;

/// Explains a rejection that only an ordinary request can get.
pub(super) fn explain(rejection: Rejection, facts: &Facts<'_>) -> Words {
    match rejection {
        Rejection::RequestRate { .. } => words(
            format!("The client sent more ordinary requests than `request_rate` of {} allows.", facts.the_route()),
            "Raise `request_rate`, or choose another `rate_key`.",
            &[keys::REQUEST_RATE, keys::RATE_KEY],
        ),
        Rejection::Unsupported => words(
            "The request asks for another protocol than WebSocket, or has the method TRACE or CONNECT.",
            "Nothing has to change: such requests are never forwarded.",
            &[],
        ),
        Rejection::Misdirected => words(
            "A plain listener with `redirect` redirects only to hosts that a route serves, and none serves the host of the request.",
            "If clients should reach a service there, add a [[route]] with this `host`. Nothing has to change if the request comes \
             from a scanner.",
            &[keys::REDIRECT],
        ),
        Rejection::Framing(error) => {
            words(framing(error), "The client has to be corrected: others may read such a request differently.", &[])
        }
        Rejection::RequestsFull => words(
            "The process has as many ordinary requests in progress as `max_http_requests` allows.",
            "Raise `max_http_requests` if this machine has the file descriptors, three for each, and restart; or add a machine. \
             Requests that wait for their response, as long polls do, are in progress.",
            &[keys::MAX_HTTP_REQUESTS],
        ),
        Rejection::AddressRequests => words(
            format!(
                "{} has its share of the ordinary requests in progress: a sixteenth of `max_http_requests`, or 16 if that is more.",
                sentence(facts.the_address())
            ),
            "If many clients share this address, raise `max_http_requests`, and restart. If it is the address of a balancer, \
             name it in the listener's `proxy_protocol_from` or `trusted_proxies`. Otherwise nothing has to change.",
            &[keys::MAX_HTTP_REQUESTS, keys::PROXY_PROTOCOL_FROM, keys::TRUSTED_PROXIES],
        ),
        Rejection::BodyTooLarge => words(
            format!("The body of the request is larger than `request_max_size` of {}.", facts.the_route()),
            "Raise `request_max_size` if clients have to send so much.",
            &[keys::REQUEST_MAX_SIZE],
        ),
        _ => words(
            "The client sent nothing of the body of its request for `body_timeout`, or less than 512 bytes per second after it.",
            "Raise `body_timeout` of the listener if clients are that slow.",
            &[keys::BODY_TIMEOUT],
        ),
    }
}

fn framing(error: FramingError) -> &'static str {
    match error {
        FramingError::LineEnd => "A line of the request ends with a bare LF.",
        FramingError::Host => "The request does not have exactly one Host.",
        FramingError::Target => {
            "The target of the request is neither a path nor a URL with the host of its Host, or has a fragment."
        }
        FramingError::Length => {
            "The request has more than one Content-Length, an invalid one, or one beside a Transfer-Encoding."
        }
        FramingError::TransferEncoding => "The Transfer-Encoding of the request is not exactly \"chunked\".",
        FramingError::TooManyNames => "The Connection header of the request has too many names.",
        FramingError::Body => "The chunks of the body of the request are malformed.",
    }
}
