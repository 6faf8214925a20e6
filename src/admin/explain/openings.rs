//! Explains the rules for the opening handshake of a client.

use super::facts::{Facts, Words, words};
use crate::config::keys;
use crate::ws::handshake::{CONNECTION_NAMES_MAX, EXTENSIONS_MAX, OpeningError, PROTOCOLS_MAX};

/// Explains a request that does not open a WebSocket.
pub(super) fn explain(error: OpeningError, facts: &Facts<'_>) -> Words {
    match error {
        OpeningError::NotUpgrade => words(
            "The request does not open a WebSocket: it lacks \"Upgrade: websocket\" or \"Connection: upgrade\", or is \
             not HTTP/1.1 (RFC 6455 section 4.2.1).",
            "Nothing has to change if a health check, a browser's address bar or a scanner sent it. If a WebSocket \
             client did, a proxy in front of Tollgate has to use HTTP/1.1 and to pass both headers on.",
            &[],
        ),
        OpeningError::Version => words(
            "The request does not ask for version 13 of the WebSocket protocol in exactly one Sec-WebSocket-Version \
             (RFC 6455 section 4.2.1).",
            "The client has to use version 13, as every library since RFC 6455 of 2011 does. Nothing has to change if \
             a scanner sent it.",
            &[],
        ),
        OpeningError::Method => words(
            "The method of the opening handshake is not GET (RFC 6455 section 4.2.1).",
            "The client has to send a GET request.",
            &[],
        ),
        OpeningError::Body => words(
            "The opening handshake announces a body with Content-Length or Transfer-Encoding. It must not have one, \
             because two parties could delimit it differently (RFC 9112 section 11.2).",
            "The client, or a proxy in front of Tollgate, has to send the request without a body.",
            &[],
        ),
        OpeningError::Host => words(
            "The request does not have exactly one Host in visible ASCII (RFC 9112 section 3.2).",
            "The client, or a proxy in front of Tollgate, has to send one Host; international names in their ASCII \
             form.",
            &[],
        ),
        OpeningError::Target if facts.upstream.is_some() => words(
            format!(
                "The path of the request is not a valid target with the `path` of {} in front (RFC 9112 section 3.2).",
                facts.the_upstream()
            ),
            "The client has to escape the characters in its path and query (RFC 3986). If every request to this \
             upstream fails, correct its `path`.",
            &[keys::BASE_PATH],
        ),
        OpeningError::Target => words(
            "The target of the request is neither a path nor an absolute URI of HTTP or WebSocket (RFC 9112 section \
             3.2).",
            "The client has to send the path and the query, such as /ws?room=1.",
            &[],
        ),
        OpeningError::Key => words(
            "The request does not have exactly one Sec-WebSocket-Key with 16 bytes in base64 (RFC 6455 section \
             4.2.1).",
            "The client has to use a WebSocket library that follows RFC 6455. A script has to send a valid key, such \
             as dGhlIHNhbXBsZSBub25jZQ==.",
            &[],
        ),
        OpeningError::Protocol => words(
            "Sec-WebSocket-Protocol is not a list of distinct tokens (RFC 6455 section 4.1).",
            "The client has to offer each subprotocol once, without spaces and separators in its name. A value that \
             carries a token must be encoded in base64url, without padding.",
            &[keys::TOKEN_FROM],
        ),
        OpeningError::Extensions => words(
            "Sec-WebSocket-Extensions does not have the form that RFC 6455 section 9.1 requires.",
            "The client has to use a WebSocket library that follows RFC 6455.",
            &[],
        ),
        OpeningError::Origin => words(
            "The request has more than one Origin (RFC 6454 section 7.3).",
            "The client, or a proxy in front of Tollgate, has to send one.",
            &[],
        ),
        OpeningError::TooManyItems => words(
            format!(
                "The request has more than {PROTOCOLS_MAX} subprotocols, {EXTENSIONS_MAX} extensions or \
                 {CONNECTION_NAMES_MAX} names in Connection. These limits are fixed, because the lists are parsed \
                 before the client is authenticated."
            ),
            "The client has to offer fewer. Nothing has to change if a scanner sent the request.",
            &[],
        ),
    }
}
