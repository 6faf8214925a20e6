use super::*;

/// Text, advice and settings.
type Expected = (&'static str, &'static str, &'static str);

#[track_caller]
fn check(explanation: &Explanation<'_>, (text, advice, settings): Expected) {
    let Explanation { text: own_text, advice: own_advice, settings: own_settings } = explanation;
    let own_settings = own_settings.iter().map(|(section, key)| format!("{section} {key}")).collect::<Vec<_>>();
    assert_eq!((&**own_text, &**own_advice, &*own_settings.join(", ")), (text, advice, settings));
}

const REJECTIONS: &[(Rejection, Expected)] = &[
    (
        Rejection::Origin,
        (
            "The request came from the origin https://evil.example, which the `origins` of the route \"chat\" \
             do not list.",
            "If pages of this origin may connect, add it to `origins`. Otherwise nothing has to change: another \
             site's page tried to connect.",
            "[[route]] \"chat\" origins",
        ),
    ),
    (
        Rejection::NoToken,
        (
            "The route \"chat\" requires a token, and the request has none in a place that `token_from` lists.",
            "The client has to send its token in one of these places. Browsers cannot set Authorization for a \
             WebSocket: they need a cookie, a subprotocol or a query parameter there. `auth = \"none\"` admits \
             every client.",
            "[auth.users] token_from, [[route]] \"chat\" auth",
        ),
    ),
    (
        Rejection::Token(TokenError::Expired),
        (
            "The token does not meet the rules of [auth.users]: its \"exp\" has passed by more than `leeway` \
             (RFC 7519 section 4.1.4).",
            "Nothing has to change: the client has to get a new token before it connects. If tokens are new and \
             still rejected, compare the clocks of this machine and the issuer.",
            "[auth.users] leeway",
        ),
    ),
    (
        Rejection::Token(TokenError::Signature),
        (
            "The token does not meet the rules of [auth.users]: no key of the section made its signature (RFC \
             7515 section 5.2).",
            "If the issuer changed its keys, update the file, or check that `jwks_url` serves the new key. If \
             tokens of another issuer arrive, add a section for it to `auth` of the route. Otherwise nothing \
             has to change: the token is forged, or the client has to get a new one.",
            "[auth.users] jwks_url, [auth.users] jwks_file, [auth.users] discovery, [auth.users] \
             public_key_file, [auth.users] secret_file",
        ),
    ),
    (
        Rejection::NoRoute,
        (
            "No route serves the path /ws/blue on the host chat.example.com.",
            "If clients should reach a service there, add a [[route]] with this `host` and `path`, or correct \
             the address that the client uses. A route of a less specific host serves it only with \
             `host_fall_through = true`.",
            "[server] host_fall_through",
        ),
    ),
    (
        Rejection::UpgradeRate { retry_after_secs: 7 },
        (
            "Requests from the address 192.0.2.7 arrive faster than `upgrade_rate` allows. The answer had a \
             Retry-After of 7 s.",
            "Nothing has to change if one client connects in a loop: it has to wait longer between attempts. If \
             many clients share this address, raise `upgrade_rate` or `upgrade_burst`. If it is the address of \
             a balancer, name it in the listener's `proxy_protocol_from` or `trusted_proxies`.",
            "[server] upgrade_rate, [server] upgrade_burst, [[listener]] \"0.0.0.0:443\" proxy_protocol_from, \
             [[listener]] \"0.0.0.0:443\" trusted_proxies",
        ),
    ),
    (
        Rejection::Opening(OpeningError::NotUpgrade),
        (
            "The request does not open a WebSocket: it lacks \"Upgrade: websocket\" or \"Connection: upgrade\", \
             or is not HTTP/1.1 (RFC 6455 section 4.2.1).",
            "Nothing has to change if a health check, a browser's address bar or a scanner sent it. If a \
             WebSocket client did, a proxy in front of Tollgate has to use HTTP/1.1 and to pass both headers on.",
            "",
        ),
    ),
    (
        Rejection::Claims,
        (
            "The client is authenticated, but the claim \"scope\" does not meet the `require` of the route \"chat\".",
            "If the client may use this route, change `require`, or have the issuer add the value to its \
             tokens. Otherwise nothing has to change.",
            "[[route]] \"chat\" require",
        ),
    ),
    (
        Rejection::Unreachable,
        (
            "The upstream \"rooms\" gave no response: the connection to 127.0.0.1:9001, which was tried last, \
             failed or broke (connection refused).",
            "Check that its servers run, and that they listen on the addresses in `servers`. If only this \
             machine fails to connect, check its firewall, its resolver and its limit of open files.",
            "[upstream.rooms] servers, [upstream.rooms] connect_timeout",
        ),
    ),
    (
        Rejection::UpstreamStatus(StatusCode::NOT_FOUND),
        (
            "The server 127.0.0.1:9001 of the upstream \"rooms\" answered with status 404 instead of 101. The \
             upstream decided this and not Tollgate, which had admitted the client.",
            "Check that the server serves this path. It receives the client's path with `path` of the upstream \
             in front.",
            "[upstream.rooms] path, [[route]] \"chat\" path",
        ),
    ),
];

#[test]
fn the_most_frequent_rejections_are_explained_in_these_words() {
    for (cause, expected) in REJECTIONS {
        check(&rejection(*cause, &KNOWN), *expected);
    }
}

const ENDS: &[(ClosedBy, Option<u16>, CloseReason, Expected)] = &[
    (
        ClosedBy::Client,
        Some(1000),
        CloseReason::Closed,
        (
            "The client closed the session with code 1000: normal closure, the connection has served its \
             purpose (RFC 6455 section 7.4.1).",
            "Nothing has to change.",
            "",
        ),
    ),
    (
        ClosedBy::Upstream,
        Some(1011),
        CloseReason::Closed,
        (
            "The server 127.0.0.1:9001 of the upstream \"rooms\" closed the session with code 1011: it met an \
             error that it did not expect (RFC 6455 section 7.4.1).",
            "Tollgate does not change messages. See the log of the server for its reason.",
            "",
        ),
    ),
    (
        ClosedBy::Client,
        None,
        CloseReason::Closed,
        (
            "The client closed the session without a code, which programs show as 1005 (RFC 6455 section 7.1.5).",
            "Nothing has to change.",
            "",
        ),
    ),
    (
        ClosedBy::Client,
        Some(1001),
        CloseReason::Disconnected(Side::Client),
        (
            "The connection of the client ended without a Close (RFC 6455 section 7.1.5): its network failed, or its \
             program ended. The upstream got code 1001.",
            "Nothing has to change if this is rare, or clients are phones. If sessions end after the same time \
             of silence, a device on the way cuts idle connections: lower `ping_interval`.",
            "[route.limits] of \"chat\" ping_interval",
        ),
    ),
    (
        ClosedBy::Upstream,
        Some(1014),
        CloseReason::Disconnected(Side::Upstream),
        (
            "The server 127.0.0.1:9001 of the upstream \"rooms\" ended the connection without a Close (RFC 6455 \
             section 7.1.5), so the client got code 1014.",
            "Check whether the server crashed, was killed or was restarted. If sessions end after the same time \
             of silence, the server or a device on the way cuts idle connections: set `upstream_ping_interval` \
             to less than that.",
            "[route.limits] of \"chat\" upstream_ping_interval, [upstream.rooms] servers, [upstream.rooms] \
             upstream_loss_close_code, [upstream.rooms] reconnect_spread",
        ),
    ),
    (
        ClosedBy::Tollgate,
        Some(1008),
        CloseReason::MessageRate,
        (
            "The client sent messages faster than the `message_rate` of the route \"chat\" allows, where \
             `on_excess` is \"close\".",
            "If the client does what the application needs, raise `message_rate` or `message_burst`, or set \
             `on_excess = \"delay\"`. With a `rate_key` other than \"session\" all sessions of the subject or \
             address count together. `mode = \"report\"` shows what a limit would do before it acts.",
            "[route.limits] of \"chat\" message_rate, [route.limits] of \"chat\" message_burst, [route.limits] \
             of \"chat\" on_excess, [route.limits] of \"chat\" rate_key, [route.limits] of \"chat\" mode",
        ),
    ),
    (
        ClosedBy::Tollgate,
        Some(1008),
        CloseReason::TokenExpired,
        (
            "The token that opened the session expired: its \"exp\" and the `leeway` and `expiry_grace` of \
             [auth.users] have passed, and `on_expiry` is \"close\".",
            "Nothing has to change: the client has to connect with a new token, or send one to the \
             `refresh_path` of the route in time. To keep sessions open longer, raise `expiry_grace`, or set \
             `on_expiry = \"ignore\"` and limit them by `max_session_age`.",
            "[auth.users] on_expiry, [auth.users] expiry_grace, [auth.users] leeway, [auth.users] \
             expiry_close_code, [[route]] \"chat\" refresh_path, [route.limits] of \"chat\" max_session_age",
        ),
    ),
    (
        ClosedBy::Tollgate,
        Some(1001),
        CloseReason::NoPong(Side::Client),
        (
            "The client was silent for `ping_interval`, was pinged, and stayed silent for `pong_timeout`.",
            "Nothing has to change if the client lost its network or was suspended, as phones are: it has to \
             connect again. If slow clients are cut off, raise `pong_timeout`.",
            "[route.limits] of \"chat\" pong_timeout, [route.limits] of \"chat\" ping_interval",
        ),
    ),
    (
        ClosedBy::Tollgate,
        Some(1001),
        CloseReason::Drain,
        (
            "The process was stopped, and it closed its sessions one after the other.",
            "Nothing has to change: the client has to connect again, and reaches the next process or another \
             machine. A longer `drain_timeout` spreads the closes over a longer time.",
            "[server] drain_timeout, [server] shutdown_delay",
        ),
    ),
    (
        ClosedBy::Tollgate,
        Some(1008),
        CloseReason::Command,
        (
            "An operator closed the session through the admin API, with the reason \"maintenance\".",
            "Nothing has to change. The log lines \"admin\" show who did this, and when.",
            "",
        ),
    ),
    (
        ClosedBy::Tollgate,
        Some(1002),
        CloseReason::Violation(Side::Client, Violation::NotMasked),
        (
            "The client broke a rule of the protocol: a frame of a client is not masked (RFC 6455 section 5.1).",
            "The client's WebSocket library has to be corrected, or a device in front of Tollgate that changes \
             frames. Nothing has to change if this was an attack: no part of the frame reached the upstream.",
            "",
        ),
    ),
    (
        ClosedBy::Tollgate,
        None,
        CloseReason::Aborted,
        (
            "The process ended before the session was closed, so the connection was cut off without a Close, \
             which programs show as 1006 (RFC 6455 section 7.1.5).",
            "Raise `drain_timeout`, so that all sessions can close, and `TimeoutStopSec=` of the unit with it. \
             A second signal during the drain cuts sessions off at once: send only one.",
            "[server] drain_timeout, [server] shutdown_delay",
        ),
    ),
];

#[test]
fn the_most_frequent_ends_are_explained_in_these_words() {
    for (by, code, cause, expected) in ENDS {
        let outcome = Outcome { by: *by, code: code.map(CloseCode), cause: *cause };
        check(&end(outcome, "maintenance", &KNOWN), *expected);
    }
}
