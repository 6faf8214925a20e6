//! Explains the responses of upstreams to opening handshakes, and their failures.

use http::StatusCode;

use super::facts::{Facts, Words, sentence, words};
use crate::config::keys::{self, Key};
use crate::ws::handshake::AnswerError;

/// Explains a request that found too many others waiting for the upstream.
pub(super) fn busy(facts: &Facts<'_>) -> Words {
    words(
        format!("As many requests as `max_pending_requests` allows wait for {} already.", facts.the_upstream()),
        "Check whether its servers answer slowly, or not at all. If they only need longer under load, raise \
         `max_pending_requests`, or lower `response_timeout` so that requests give up earlier.",
        &[keys::MAX_PENDING_REQUESTS, keys::RESPONSE_TIMEOUT, keys::CONNECT_TIMEOUT],
    )
}

/// Explains a request that found every server of the upstream full or draining.
pub(super) fn full(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "Every server of {} has `max_sessions` sessions, or drains, and none became available within \
             `queue_timeout`; or `queue_max` requests waited already.",
            facts.the_upstream()
        ),
        "Add servers, raise `max_sessions` if the servers have the capacity, or end a drain that is over. \
         The upstreams in the admin API have the state and the sessions of each server. The client may try again.",
        &[keys::SERVERS, keys::QUEUE_TIMEOUT, keys::QUEUE_MAX],
    )
}

/// Explains a request beyond the rate of the upstream.
pub(super) fn rate(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "More requests arrived for {} than `admit_rate` permits, and this one would have waited longer than \
             `queue_timeout`; or `queue_max` requests waited already.",
            facts.the_upstream()
        ),
        "Nothing has to change after an outage, when all clients return at once: the client may try again. Otherwise \
         raise `admit_rate` to what the servers bear.",
        &[keys::ADMIT_RATE, keys::QUEUE_TIMEOUT, keys::QUEUE_MAX],
    )
}

/// Explains an upstream that accepts no connection, or breaks it.
pub(super) fn unreachable(facts: &Facts<'_>) -> Words {
    let text = match facts.server {
        Some(server) => format!(
            "{} gave no response: the connection to {server}, which was tried last, failed or broke{}.",
            facts.the_upstream(),
            facts.in_brackets()
        ),
        None => format!("No server of {} accepted the connection{}.", facts.the_upstream(), facts.in_brackets()),
    };
    if facts.detail.is_some_and(|detail| detail.contains("TLS handshake")) {
        return words(
            sentence(text),
            "Check that its servers expect TLS, that their certificates are valid, lead to the roots in `ca` and have \
             the name in `server_name`, and that they accept the client certificate in `certificate`.",
            &[keys::SERVERS, keys::UPSTREAM_TLS],
        );
    }
    words(
        sentence(text),
        "Check that its servers run, and that they listen on the addresses in `servers`. If only this machine fails to \
         connect, check its firewall, its resolver and its limit of open files.",
        &[keys::SERVERS, keys::CONNECT_TIMEOUT],
    )
}

/// Explains an upstream that does not answer in time.
pub(super) fn timeout(facts: &Facts<'_>) -> Words {
    words(
        sentence(format!(
            "{} did not accept the connection within `connect_timeout`, or did not respond within \
             `response_timeout`{}.",
            facts.the_server(),
            facts.in_brackets()
        )),
        "Check the load of the server, and the way to it. If it needs longer to accept a session, raise the timeout.",
        &[keys::RESPONSE_TIMEOUT, keys::CONNECT_TIMEOUT, keys::SERVERS],
    )
}

/// Explains a response that cannot be read.
pub(super) fn malformed(facts: &Facts<'_>) -> Words {
    words(
        sentence(format!(
            "{} sent bytes that are not an HTTP response, or a response head that is too large{}.",
            facts.the_server(),
            facts.in_brackets()
        )),
        "Check that `servers` names the port for HTTP/1.1, neither HTTP/2 nor another service, and that the upstream \
         has `tls` if its servers expect TLS.",
        &[keys::SERVERS, keys::UPSTREAM_TLS],
    )
}

/// Explains a response with status 101 that does not complete the opening handshake.
pub(super) fn answer(error: AnswerError, facts: &Facts<'_>) -> Words {
    let breach = match error {
        AnswerError::Status => "its status is not 101",
        AnswerError::NotUpgrade => "it lacks \"Upgrade: websocket\" or \"Connection: upgrade\", or is not HTTP/1.1",
        AnswerError::Accept => "its Sec-WebSocket-Accept does not match the key of the request",
        AnswerError::Protocol => "it selects a subprotocol that was not offered, or more than one",
        AnswerError::Extension => "it accepts an extension or a parameter that was not offered",
    };
    let advice = match error {
        AnswerError::Status | AnswerError::NotUpgrade | AnswerError::Accept => {
            "The server's WebSocket software, or a proxy between Tollgate and the server, has to be corrected."
        }
        AnswerError::Protocol => {
            "The server has to select one of the subprotocols in the request. Tollgate removes those that carry a \
             token, unless the section has `forward_token = true`."
        }
        AnswerError::Extension => {
            "The server has to accept only what the request offers. Tollgate offers permessage-deflate alone, and \
             nothing where the route has `check_utf8` or `on_excess = \"drop\"`."
        }
    };
    let deciding: &[Key] = match error {
        AnswerError::Status | AnswerError::NotUpgrade | AnswerError::Accept => &[keys::SERVERS],
        AnswerError::Protocol => &[keys::TOKEN_FROM, keys::FORWARD_TOKEN],
        AnswerError::Extension => &[keys::CHECK_UTF8, keys::ON_EXCESS],
    };
    let text = format!(
        "The answer of {} does not complete the opening handshake: {breach} (RFC 6455 section 4.1).",
        facts.the_server()
    );
    words(text, advice, deciding)
}

/// Explains a response with a status that rejects the request.
pub(super) fn status(status: StatusCode, facts: &Facts<'_>) -> Words {
    let text = sentence(format!(
        "{} answered with status {} instead of 101. The upstream decided this and not Tollgate, which had admitted the \
         client.",
        facts.the_server(),
        status.as_u16()
    ));
    let (advice, deciding): (_, &[Key]) = match status {
        StatusCode::NOT_FOUND => (
            "Check that the server serves this path. It receives the client's path with `path` of the upstream in \
             front.",
            &[keys::BASE_PATH, keys::PATH],
        ),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (
            "Check which credential or origin the server expects. It receives the client's token only with \
             `forward_token = true`, and claims as headers with `forward_claims`.",
            &[keys::FORWARD_TOKEN, keys::FORWARD_CLAIMS, keys::PASS_HEADERS],
        ),
        StatusCode::BAD_REQUEST | StatusCode::MISDIRECTED_REQUEST | StatusCode::UPGRADE_REQUIRED => (
            "See the log of the server. If it expects another Host, set `upstream_host`; if it only reads header \
             names in title case, set `title_case_headers = true`.",
            &[keys::UPSTREAM_HOST, keys::TITLE_CASE_HEADERS],
        ),
        _ if status.is_redirection() => (
            "WebSocket clients rarely follow redirections. Check the paths and the host that the server expects.",
            &[keys::BASE_PATH, keys::UPSTREAM_HOST],
        ),
        _ if status.is_success() => (
            "The server treats the request as one for a page. Check that `servers` and the path lead to its WebSocket \
             service.",
            &[keys::SERVERS, keys::BASE_PATH],
        ),
        _ if status.is_server_error() => ("See the log of the server for the error.", &[keys::SERVERS]),
        _ => {
            ("See the log of the server for its reason. The client received its status and its body.", &[keys::SERVERS])
        }
    };
    words(text, advice, deciding)
}
