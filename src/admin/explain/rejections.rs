//! Explains every rejection of a request.

use http::StatusCode;

use super::facts::{Explanation, Facts, REVOKED_ADVICE, Words, sentence, words};
use super::{logouts, openings, paths, requests, tokens, upstreams};
use crate::config::keys;
use crate::policy::rejection::Rejection;

/// Explains the rejection of a request.
pub fn rejection<'a>(rejection: Rejection, facts: &Facts<'a>) -> Explanation<'a> {
    explain(rejection, facts).about(facts)
}

fn explain(rejection: Rejection, facts: &Facts<'_>) -> Words {
    match rejection {
        Rejection::Head { too_large } => head(too_large, facts),
        Rejection::Opening(error) => openings::explain(error, facts),
        Rejection::Host => host(),
        Rejection::Path(error) => paths::explain(error, facts),
        Rejection::NoRoute => no_route(facts),
        Rejection::Method => method(facts),
        Rejection::Address => address(facts),
        Rejection::UpgradeRate { retry_after_secs } => upgrade_rate(retry_after_secs, facts),
        Rejection::Origin => origin(facts),
        Rejection::NoToken => no_token(facts),
        Rejection::TokenAmbiguous => token_ambiguous(facts),
        Rejection::Token(error) => tokens::explain(error, facts),
        Rejection::Revoked => revoked(facts),
        Rejection::Logout(error) => logouts::explain(error, facts),
        Rejection::AuthStatus(status) => auth_status(status, facts),
        Rejection::AuthUnavailable => auth_unavailable(facts),
        Rejection::AuthBusy => auth_busy(facts),
        Rejection::KeysUnavailable { retry_after_secs } => keys_unavailable(retry_after_secs, facts),
        Rejection::Claims => claims(facts),
        Rejection::AddressSessions => address_sessions(facts),
        Rejection::SubjectSessions => subject_sessions(facts),
        Rejection::ClusterUnavailable => cluster_unavailable(),
        Rejection::Full => full(),
        Rejection::Memory => memory(),
        Rejection::Draining => draining(),
        Rejection::UpstreamBusy { .. } => upstreams::busy(facts),
        Rejection::UpstreamFull { .. } => upstreams::full(facts),
        Rejection::UpstreamRate { .. } => upstreams::rate(facts),
        Rejection::Unreachable => upstreams::unreachable(facts),
        Rejection::UpstreamMalformed => upstreams::malformed(facts),
        Rejection::UpstreamTimeout => upstreams::timeout(facts),
        Rejection::Answer(error) => upstreams::answer(error, facts),
        Rejection::UpstreamStatus(status) => upstreams::status(status, facts),
        Rejection::ClientGone => client_gone(facts),
        Rejection::RequestRate { .. }
        | Rejection::Unsupported
        | Rejection::Misdirected
        | Rejection::Framing(_)
        | Rejection::RequestsFull
        | Rejection::AddressRequests
        | Rejection::BodyTooLarge
        | Rejection::BodyTimeout => requests::explain(rejection, facts),
    }
}

fn head(too_large: bool, facts: &Facts<'_>) -> Words {
    if too_large {
        words(
            "The head of the request has more bytes than the listener's `head_max_size`, or more header fields than \
             its `head_max_headers`.",
            "If the client needs large cookies or tokens, raise the limit. Otherwise nothing has to change.",
            &[keys::HEAD_MAX_SIZE, keys::HEAD_MAX_HEADERS],
        )
    } else {
        words(
            format!("The client did not send the head of an HTTP/1.1 request{}.", facts.in_brackets()),
            "Nothing has to change if a scanner sent it. A client has to use HTTP/1.1, and to escape the characters \
             \", < and > in a query. A balancer that sends a PROXY header has to be in `proxy_protocol_from`.",
            &[keys::PROXY_PROTOCOL_FROM],
        )
    }
}

fn host() -> Words {
    words(
        "The Host of the request is missing, or is not one host name or IP address with an optional port.",
        "The client has to send the name of the service. Nothing has to change if the request comes from a scanner.",
        &[],
    )
}

fn no_route(facts: &Facts<'_>) -> Words {
    let host = facts.host.map_or_else(|| "this host".to_owned(), |host| format!("the host {host}"));
    let text = format!("No route serves {} on {host}.", facts.the_path());
    if let Some(near) = facts.slash_route {
        let advice = format!(
            "The route \"{near}\" serves this path with a slash more or less at its end: correct the address that the \
             client uses, or the `path`."
        );
        return words(text, advice, &[]);
    }
    let advice = "If clients should reach a service there, add a [[route]] with this `host` and `path`, or correct \
                  the address that the client uses.";
    if facts.has_hosts {
        let wider = " A route of a less specific host serves it only with `host_fall_through = true`.";
        return words(text, format!("{advice}{wider}"), &[keys::HOST_FALL_THROUGH]);
    }
    words(text, advice, &[])
}

fn method(facts: &Facts<'_>) -> Words {
    words(
        sentence(format!(
            "{} is the `refresh_path` of {}, which answers only POST and OPTIONS.",
            facts.the_path(),
            facts.the_route()
        )),
        "The client has to send its fresh token by POST.",
        &[keys::REFRESH_PATH],
    )
}

fn address(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "{} does not admit {}: it is in `deny_addresses`, or it is not in `allow_addresses`.",
            sentence(facts.the_route()),
            facts.the_address()
        ),
        "To admit the client, change these lists. If the address is that of a balancer, name the balancer in the \
         listener's `proxy_protocol_from` or `trusted_proxies`.",
        &[keys::DENY_ADDRESSES, keys::ALLOW_ADDRESSES, keys::PROXY_PROTOCOL_FROM, keys::TRUSTED_PROXIES],
    )
}

fn upgrade_rate(retry_after_secs: u64, facts: &Facts<'_>) -> Words {
    words(
        format!(
            "Requests from {} arrive faster than `upgrade_rate` allows. The answer had a Retry-After of \
             {retry_after_secs} s.",
            facts.the_address()
        ),
        "Nothing has to change if one client connects in a loop: it has to wait longer between attempts. If many \
         clients share this address, raise `upgrade_rate` or `upgrade_burst`. If it is the address of a balancer, \
         name it in the listener's `proxy_protocol_from` or `trusted_proxies`.",
        &[keys::UPGRADE_RATE, keys::UPGRADE_BURST, keys::PROXY_PROTOCOL_FROM, keys::TRUSTED_PROXIES],
    )
}

fn origin(facts: &Facts<'_>) -> Words {
    match facts.origin {
        Some(origin) => words(
            format!(
                "The request came from the origin {origin}, which the `origins` of {} do not list.",
                facts.the_route()
            ),
            "If pages of this origin may connect, add it to `origins`. Otherwise nothing has to change: another site's \
             page tried to connect.",
            &[keys::ORIGINS],
        ),
        None => words(
            format!("The request has no Origin, or one that is not text, and {} does not admit it.", facts.the_route()),
            "If clients other than browsers may connect, set `missing_origin = \"allow\"`. A refresh whose token is \
             in a cookie always needs an Origin.",
            &[keys::MISSING_ORIGIN, keys::ORIGINS],
        ),
    }
}

fn no_token(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "{} requires a token, and the request has none in a place that `token_from` lists.",
            sentence(facts.the_route())
        ),
        "The client has to send its token in one of these places. Browsers cannot set Authorization for a WebSocket: \
         they need a cookie, a subprotocol or a query parameter there. `auth = \"none\"` admits every client.",
        &[keys::TOKEN_FROM, keys::AUTH],
    )
}

fn token_ambiguous(facts: &Facts<'_>) -> Words {
    words(
        format!("The request has several tokens in one place from which {} takes them.", facts.the_auth()),
        "The client has to send one token. Two cookies of one name often have different paths or domains: remove the \
         stale one.",
        &[keys::TOKEN_FROM],
    )
}

fn revoked(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "The token is valid by the rules of {}, but it, its subject or its login was revoked.",
            facts.the_auth()
        ),
        REVOKED_ADVICE,
        &[],
    )
}

fn auth_status(status: StatusCode, facts: &Facts<'_>) -> Words {
    words(
        format!(
            "The authentication service of {} rejected the client with status {}. The service decided this and not \
             Tollgate.",
            facts.the_auth(),
            status.as_u16()
        ),
        "Nothing has to change if the client is not logged in. Otherwise see the log of the service: it decides by the \
         headers of the request, such as its cookies.",
        &[keys::AUTH_URL],
    )
}

fn auth_unavailable(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "The authentication service of {} gave no answer within `timeout`, or none that can be used{}.",
            facts.the_auth(),
            facts.in_brackets()
        ),
        "Check that the service runs and that this machine reaches `url`. 2xx, 401, 403 and 3xx are answers, and a 2xx \
         needs the `subject_header`, if that is set.",
        &[keys::AUTH_URL, keys::AUTH_TIMEOUT, keys::SUBJECT_HEADER, keys::CA],
    )
}

fn auth_busy(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "Too many requests wait for the authentication service of {}, of all clients or of {}.",
            facts.the_auth(),
            facts.the_address()
        ),
        "Check whether the service answers slowly. A longer `cache_for` asks it less often, a shorter `timeout` gives \
         up earlier, and `max_sessions` sets how many requests may wait.",
        &[keys::CACHE_FOR, keys::AUTH_TIMEOUT, keys::MAX_SESSIONS],
    )
}

fn keys_unavailable(retry_after_secs: u64, facts: &Facts<'_>) -> Words {
    words(
        format!(
            "The token cannot be verified by {}: its keys were not fetched yet or are older than `keys_stale_for`, \
             the fetch that may bring the key of this token failed, or too many requests wait for it. The answer had \
             a Retry-After of {retry_after_secs} s.",
            facts.the_auth()
        ),
        "Check that this machine reaches `jwks_url` or the issuer; the log has the error of each fetch. Clients may \
         try again with the same token.",
        &[keys::JWKS_URL, keys::DISCOVERY, keys::ISSUER, keys::CA, keys::KEYS_STALE_FOR],
    )
}

fn claims(facts: &Facts<'_>) -> Words {
    if facts.is_claim_required == Some(false) {
        return words(
            format!(
                "The client is authenticated, but {} has a value that `forward_claims` of {} cannot write into a \
                 header.",
                facts.the_claim(),
                facts.the_route()
            ),
            "The issuer has to send a text, number or boolean without control characters, or the claim has to leave \
             `forward_claims`.",
            &[keys::FORWARD_CLAIMS],
        );
    }
    words(
        format!(
            "The client is authenticated, but {} does not meet the `require` of {}.",
            facts.the_claim(),
            facts.the_route()
        ),
        "If the client may use this route, change `require`, or have the issuer add the value to its tokens. Otherwise \
         nothing has to change.",
        &[keys::REQUIRE],
    )
}

fn address_sessions(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "{} has as many sessions on {} as `sessions_per_address` allows{}.",
            sentence(facts.the_address()),
            facts.the_route(),
            on_all_nodes(facts)
        ),
        "If many clients share this address, raise `sessions_per_address`. With `on_session_limit = \"close_oldest\"` \
         a new session replaces the oldest one. If it is the address of a balancer, name it in the listener's \
         `proxy_protocol_from` or `trusted_proxies`.",
        &[keys::SESSIONS_PER_ADDRESS, keys::ON_SESSION_LIMIT, keys::PROXY_PROTOCOL_FROM, keys::TRUSTED_PROXIES],
    )
}

fn subject_sessions(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "The subject has as many sessions on {} as `sessions_per_subject` allows{}.",
            facts.the_route(),
            on_all_nodes(facts)
        ),
        "If one user may have more, raise `sessions_per_subject`. With `on_session_limit = \"close_oldest\"` a new \
         session replaces the oldest one. All clients without a subject count as one.",
        &[keys::SESSIONS_PER_SUBJECT, keys::ON_SESSION_LIMIT, keys::SUBJECT_CLAIM],
    )
}

/// Returns where the sessions of a client are counted.
fn on_all_nodes(facts: &Facts<'_>) -> &'static str {
    if facts.shares_slots {
        " on all nodes of the cluster together, or on this node as its part while the server of the cluster is away"
    } else {
        ""
    }
}

fn cluster_unavailable() -> Words {
    words(
        "The server of the cluster counts the sessions of this client on all nodes. Its answer was late, or it is away and \
         `on_outage` is \"refuse\".",
        "Check that the server runs and that this machine reaches it. An answer that is late rejects an upgrade also with \
         `on_outage = \"local\"`, until the server is taken for away; then the nodes divide the limits. A higher `timeout` \
         waits longer for a server that is slow.",
        &[keys::CLUSTER_ON_OUTAGE, keys::CLUSTER_TIMEOUT],
    )
}

fn full() -> Words {
    words(
        "The process has as many sessions as `max_sessions` allows, with those that wait for their upstream; or too \
         many refreshes of tokens are in progress.",
        "Raise `max_sessions` if this machine has the memory and the file descriptors, or add a machine. \
         `sessions_per_subject` and `sessions_per_address` of a route limit the sessions of one client.",
        &[keys::MAX_SESSIONS],
    )
}

fn memory() -> Words {
    words(
        "The process uses more memory than `memory_max`, so it admits no session until it uses less than 95% of it.",
        "Raise `memory_max` if this machine has more memory, and `MemoryMax=` of the unit with it. Otherwise lower \
         `max_sessions`, or add a machine.",
        &[keys::MEMORY_MAX, keys::MAX_SESSIONS],
    )
}

fn draining() -> Words {
    words(
        "The process was stopped and drains, so it admits no new session.",
        "Nothing has to change: clients have to try again. If a balancer still sends clients here, raise \
         `shutdown_delay` to the time in which it notices that the readiness check fails.",
        &[keys::SHUTDOWN_DELAY, keys::DRAIN_TIMEOUT],
    )
}

fn client_gone(facts: &Facts<'_>) -> Words {
    words(
        format!("The client disconnected before its response, or did not read it in time{}.", facts.in_brackets()),
        "Nothing has to change if this is rare. If it is frequent, clients have a shorter timeout than the upstream or \
         the authentication service needs: look for slow upgrades in the log.",
        &[keys::RESPONSE_TIMEOUT, keys::CONNECT_TIMEOUT, keys::AUTH_TIMEOUT],
    )
}
