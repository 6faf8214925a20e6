//! Explains every end of a session.

use super::facts::{Explanation, Facts, REVOKED_ADVICE, Words, sentence, words};
use super::{close_codes, violations};
use crate::config::keys::{self, Key};
use crate::session::{AdmissionRule, CloseReason, Outcome, Side};
use crate::ws::code::CloseCode;

/// Explains the end of a session. `reason` is the text of the Close if an operator closed it.
pub fn end<'a>(outcome: Outcome, reason: &str, facts: &Facts<'a>) -> Explanation<'a> {
    explain(outcome, reason, facts).about(facts)
}

fn explain(outcome: Outcome, reason: &str, facts: &Facts<'_>) -> Words {
    match outcome.cause {
        CloseReason::Closed => close_codes::explain(outcome.by, outcome.code, facts),
        CloseReason::Violation(side, violation) => violations::explain(side, violation, facts),
        CloseReason::MessageRate => message_rate(facts),
        CloseReason::ByteRate(side) => byte_rate(side, facts),
        CloseReason::OverheadRate => overhead_rate(facts),
        CloseReason::TokenExpired => token_expired(facts),
        CloseReason::MaxAge => max_age(facts),
        CloseReason::IdleTimeout => idle_timeout(facts),
        CloseReason::NoPong(side) => no_pong(side, facts),
        CloseReason::Drain => drain(),
        CloseReason::Disconnected(side) => disconnected(side, outcome.code, facts),
        CloseReason::WriteStall(side) => write_stall(side, facts),
        CloseReason::SlowClient => slow_client(facts),
        CloseReason::Command => command(reason),
        CloseReason::Revoked => revoked(facts),
        CloseReason::Replaced => replaced(facts),
        CloseReason::NotAdmitted(rule) => not_admitted(rule, facts),
        CloseReason::Removed => removed(facts),
        CloseReason::ServerDrain => server_drained(facts),
        CloseReason::Rebalance => rebalanced(facts),
        CloseReason::Aborted => aborted(),
    }
}

fn message_rate(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "The client sent messages faster than the `message_rate` of {} allows, where `on_excess` is \"close\".",
            facts.the_route()
        ),
        "If the client does what the application needs, raise `message_rate` or `message_burst`, or set `on_excess = \
         \"delay\"`. With a `rate_key` other than \"session\" all sessions of the subject or address count together. \
         `mode = \"report\"` shows what a limit would do before it acts.",
        &[keys::MESSAGE_RATE, keys::MESSAGE_BURST, keys::ON_EXCESS, keys::RATE_KEY, keys::LIMIT_MODE],
    )
}

fn byte_rate(side: Side, facts: &Facts<'_>) -> Words {
    let sender = match side {
        Side::Client => "the client".to_owned(),
        Side::Upstream => facts.the_server(),
    };
    words(
        sentence(format!(
            "{sender} sent bytes faster than the `byte_rate` of {} allows, or a frame larger than `byte_burst`, where \
             `on_excess` is \"close\".",
            facts.the_route()
        )),
        "If the application needs this much, raise `byte_rate` or `byte_burst`, or set `on_excess = \"delay\"`. With a \
         `rate_key` other than \"session\" all sessions of the subject or address count together.",
        &[keys::BYTE_RATE, keys::BYTE_BURST, keys::ON_EXCESS, keys::RATE_KEY, keys::LIMIT_MODE],
    )
}

fn overhead_rate(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "The client sent control frames, small fragments or empty messages faster than the `overhead_rate` of {} \
             allows.",
            facts.the_route()
        ),
        "The client has to send fewer pings and larger fragments. If the application needs them, raise \
         `overhead_rate` or `overhead_burst`. Nothing has to change if this was an attack.",
        &[keys::OVERHEAD_RATE, keys::OVERHEAD_BURST, keys::LIMIT_MODE],
    )
}

fn token_expired(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "The token that opened the session expired: its \"exp\" and the `leeway` and `expiry_grace` of {} have \
             passed, and `on_expiry` is \"close\".",
            facts.the_auth()
        ),
        "Nothing has to change: the client has to connect with a new token, or send one to the `refresh_path` of the \
         route in time. To keep sessions open longer, raise `expiry_grace`, or set `on_expiry = \"ignore\"` and limit \
         them by `max_session_age`.",
        &[
            keys::ON_EXPIRY,
            keys::EXPIRY_GRACE,
            keys::LEEWAY,
            keys::EXPIRY_CLOSE_CODE,
            keys::REFRESH_PATH,
            keys::MAX_SESSION_AGE,
        ],
    )
}

fn max_age(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "The session lasted as long as the `max_session_age` of {} allows, which is shortened at random by up to a \
             tenth.",
            facts.the_route()
        ),
        "Nothing has to change: the client has to connect again. To allow longer sessions, raise `max_session_age`.",
        &[keys::MAX_SESSION_AGE, keys::LIMIT_MODE],
    )
}

fn idle_timeout(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "No message passed in either direction within the `idle_timeout` of {}. Pings and pongs do not count.",
            facts.the_route()
        ),
        "If quiet sessions are wanted, raise `idle_timeout`, set it to \"off\", or let the application send a message \
         from time to time.",
        &[keys::IDLE_TIMEOUT, keys::LIMIT_MODE],
    )
}

fn no_pong(side: Side, facts: &Facts<'_>) -> Words {
    match side {
        Side::Client => words(
            "The client was silent for `ping_interval`, was pinged, and stayed silent for `pong_timeout`.",
            "Nothing has to change if the client lost its network or was suspended, as phones are: it has to connect \
             again. If slow clients are cut off, raise `pong_timeout`.",
            &[keys::PONG_TIMEOUT, keys::PING_INTERVAL],
        ),
        Side::Upstream => words(
            sentence(format!(
                "{} was silent for `upstream_ping_interval`, was pinged, and stayed silent for `pong_timeout`; or it \
                 stopped within a frame for `ping_interval` and `pong_timeout`, so that its client could not be pinged.",
                facts.the_server()
            )),
            "Check whether the server hangs or is overloaded, and whether its WebSocket software answers pings, as RFC \
             6455 section 5.5.2 requires. If it only needs longer, raise `pong_timeout`.",
            &[keys::PONG_TIMEOUT, keys::UPSTREAM_PING_INTERVAL, keys::PING_INTERVAL],
        ),
    }
}

fn drain() -> Words {
    words(
        "The process was stopped, and it closed its sessions one after the other.",
        "Nothing has to change: the client has to connect again, and reaches the next process or another machine. A \
         longer `drain_timeout` spreads the closes over a longer time.",
        &[keys::DRAIN_TIMEOUT, keys::SHUTDOWN_DELAY],
    )
}

fn disconnected(side: Side, code: Option<CloseCode>, facts: &Facts<'_>) -> Words {
    match side {
        Side::Client => words(
            "The connection of the client ended without a Close (RFC 6455 section 7.1.5): its network failed, or its \
             program ended. The upstream got code 1001.",
            "Nothing has to change if this is rare, or clients are phones. If sessions end after the same time of \
             silence, a device on the way cuts idle connections: lower `ping_interval`.",
            &[keys::PING_INTERVAL],
        ),
        Side::Upstream => words(
            sentence(format!(
                "{} ended the connection without a Close (RFC 6455 section 7.1.5), so the client got code {}.",
                facts.the_server(),
                code.unwrap_or(CloseCode::BAD_GATEWAY)
            )),
            "Check whether the server crashed, was killed or was restarted. If sessions end after the same time of \
             silence, the server or a device on the way cuts idle connections: set `upstream_ping_interval` to less \
             than that.",
            &[keys::UPSTREAM_PING_INTERVAL, keys::SERVERS, keys::UPSTREAM_LOSS_CLOSE_CODE, keys::RECONNECT_SPREAD],
        ),
    }
}

fn write_stall(side: Side, facts: &Facts<'_>) -> Words {
    match side {
        Side::Client => words(
            "The client accepted none of the bytes that were queued for it within `write_timeout`.",
            "Nothing has to change if the client lost its network. If clients on slow networks are cut off, raise \
             `write_timeout`, or let the application send less.",
            &[keys::WRITE_TIMEOUT],
        ),
        Side::Upstream => words(
            sentence(format!(
                "{} accepted none of the bytes that were queued for it within `write_timeout`.",
                facts.the_server()
            )),
            "Check whether the server hangs or is overloaded. If it has pauses of this length, raise `write_timeout`.",
            &[keys::WRITE_TIMEOUT],
        ),
    }
}

fn slow_client(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "Messages waited for the client longer than the `write_timeout` of {}, where `on_slow_client` is \"close\".",
            facts.the_route()
        ),
        "Nothing has to change if the client was on a slow network: it has to connect again. If such clients have to \
         stay, raise `write_timeout`, let the application send less, or set `on_slow_client` to \"drop_oldest\" or \
         \"block\".",
        &[keys::ON_SLOW_CLIENT, keys::WRITE_TIMEOUT, keys::LIMIT_MODE],
    )
}

fn command(reason: &str) -> Words {
    let reason = if reason.is_empty() { String::new() } else { format!(", with the reason \"{reason}\"") };
    words(
        format!("An operator closed the session through the admin API{reason}."),
        "Nothing has to change. The log lines \"admin\" show who did this, and when.",
        &[],
    )
}

fn revoked(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "The token that opened the session by the rules of {}, its subject or its login was revoked.",
            facts.the_auth()
        ),
        REVOKED_ADVICE,
        &[],
    )
}

fn replaced(facts: &Facts<'_>) -> Words {
    words(
        format!(
            "A newer session of the same subject or address took over the slot of this one, because their number on \
             {} is limited and `on_session_limit` is \"close_oldest\".",
            facts.the_route()
        ),
        "Nothing has to change if the client connected again, for example after its network failed. If a user needs \
         several sessions, raise `sessions_per_subject` or `sessions_per_address`. A client that closes its own \
         sessions in a loop has to stop connecting twice.",
        &[keys::SESSIONS_PER_SUBJECT, keys::SESSIONS_PER_ADDRESS, keys::ON_SESSION_LIMIT],
    )
}

fn not_admitted(rule: AdmissionRule, facts: &Facts<'_>) -> Words {
    let (what, deciding): (_, &[Key]) = match rule {
        AdmissionRule::Origin => ("its origin is not in `origins` any more", &[keys::ORIGINS, keys::MISSING_ORIGIN]),
        AdmissionRule::Address => (
            "its address is in `deny_addresses` now, or not in `allow_addresses` any more",
            &[keys::DENY_ADDRESSES, keys::ALLOW_ADDRESSES],
        ),
        AdmissionRule::Claims => ("its claims do not meet `require` any more", &[keys::REQUIRE, keys::FORWARD_CLAIMS]),
        AdmissionRule::KeyLost => (
            "the key that verified its token has left the key set of its auth section",
            &[keys::JWKS_URL, keys::DISCOVERY, keys::JWKS_FILE],
        ),
        AdmissionRule::Service => (
            "the authentication service did not admit it when it was asked again",
            &[keys::RECHECK_INTERVAL, keys::AUTH_URL],
        ),
        AdmissionRule::Sessions => (
            "the subject or the address has more sessions than the limits allow now",
            &[keys::SESSIONS_PER_SUBJECT, keys::SESSIONS_PER_ADDRESS],
        ),
        AdmissionRule::Token => (
            "its token is not valid by the rules of its auth section any more, or the route has another section",
            &[keys::AUTH, keys::ISSUER, keys::AUDIENCE, keys::ALGORITHMS, keys::TOKEN_FROM],
        ),
    };
    words(
        format!("The session is not admitted by {} any more: {what}.", facts.the_route()),
        "Nothing has to change if that was intended. `tollgate reload --dry-run` shows how many sessions a reload \
         would end, and `on_reload = \"keep\"` lets it end none.",
        deciding,
    )
}

fn removed(facts: &Facts<'_>) -> Words {
    words(
        format!("A reload removed {}, or changed its host, its path or its upstream.", facts.the_route()),
        "Nothing has to change if that was intended: the client has to connect again. `on_removed` sets whether such \
         sessions end at once or over `drain_timeout`, and `on_reload = \"keep\"` lets a reload end none.",
        &[keys::ON_REMOVED, keys::ON_RELOAD, keys::DRAIN_TIMEOUT],
    )
}

fn server_drained(facts: &Facts<'_>) -> Words {
    words(
        sentence(format!(
            "{} gets no new sessions, because the configuration or an operator drains it, or is not in the pool of its \
             upstream any more, and its open sessions are closed with 1012.",
            facts.the_server()
        )),
        "Nothing has to change if that was intended: the client connects again, and another server gets its session. \
         `drain_rate` sets how many of them are closed in a second. `tollgate upstreams undrain` stops the drain of a \
         server that is still in `servers` or found by `discover`; that of a removed one stops when it is in the pool again.",
        &[keys::SERVERS, keys::SERVER_DRAIN, keys::DRAIN_RATE],
    )
}

fn rebalanced(facts: &Facts<'_>) -> Words {
    words(
        sentence(format!(
            "{} had more than its share of the sessions of its upstream while others had fewer, and `rebalance` moves a \
             part of them.",
            facts.the_server()
        )),
        "Nothing has to change: the client connects again, and a server with fewer sessions gets it. A lower \
         `rebalance` moves fewer sessions at a time, and \"off\" none.",
        &[keys::REBALANCE, keys::SERVER_WEIGHT],
    )
}

fn aborted() -> Words {
    words(
        "The process ended before the session was closed, so the connection was cut off without a Close, which \
         programs show as 1006 (RFC 6455 section 7.1.5).",
        "Raise `drain_timeout`, so that all sessions can close, and `TimeoutStopSec=` of the unit with it. A second \
         signal during the drain cuts sessions off at once: send only one.",
        &[keys::DRAIN_TIMEOUT, keys::SHUTDOWN_DELAY],
    )
}
