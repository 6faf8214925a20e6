//! Reads how an upstream balances its sessions: `balance`, `drain_rate`, `rebalance`, and the settings of each of its
//! servers.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use http::HeaderName;
use http::uri::PathAndQuery;

use super::common::Duplicates;
use super::cookie;
use super::diagnostic::{Diagnostic, quote};
use super::file::{Located, Parsed, Section};
use super::files::FileLoader;
use super::keys::{self, Kind};
use super::mixed_list::{TextOrTable, texts_or_tables};
use super::server_address::server_address;
use super::units;
use crate::balance::{
    AdmitRate, Balance, Check, CheckConfig, ClosingRate, HashSource, HealthConfig, Rebalance, ServerAddress,
    ServerConfig,
};
use crate::policy::credential::TokenSource;
use crate::policy::quota::Rate;

const SERVERS_MAX: usize = 256;

/// Reads the servers: at least one, without duplicates.
pub(super) fn servers(section: &Section<'_>) -> Option<Vec<ServerConfig>> {
    let title = format!("a server of {}", section.title());
    let items = texts_or_tables(section, &keys::SERVERS, ("upstream.servers", &title), SERVERS_MAX)?;
    if section.is_empty_list(&keys::SERVERS) {
        section
            .diagnostics
            .push(Diagnostic::error(items.span, "an upstream needs a server").label("the list is empty"));
        return None;
    }
    let mut seen = Duplicates::default();
    Some(items.value.into_iter().filter_map(|item| server(section, item, &mut seen)).collect())
}

fn server(section: &Section<'_>, item: TextOrTable<'_>, seen: &mut Duplicates<ServerAddress>) -> Option<ServerConfig> {
    match item {
        TextOrTable::Text(text) => address(section, &text, seen).map(ServerConfig::from),
        TextOrTable::Table(table) => {
            let text = table.text(&keys::SERVER_ADDRESS);
            let weight = table.integer(&keys::SERVER_WEIGHT);
            let max_sessions = max_sessions(&table);
            let drain = table.flag(&keys::SERVER_DRAIN);
            Some(ServerConfig {
                address: address(section, &text?, seen)?,
                weight: u16::try_from(weight?.value).ok().and_then(NonZeroU16::new)?,
                max_sessions: max_sessions?,
                drain: drain?.value,
            })
        }
    }
}

fn max_sessions(table: &Section<'_>) -> Parsed<Option<NonZeroU32>> {
    match table.key_span(&keys::SERVER_MAX_SESSIONS) {
        None => Some(None),
        Some(_) => table.count(&keys::SERVER_MAX_SESSIONS).map(|max| Some(max.value)),
    }
}

fn address(
    section: &Section<'_>,
    text: &Located<String>,
    seen: &mut Duplicates<ServerAddress>,
) -> Option<ServerAddress> {
    match server_address(text) {
        Ok(address) => {
            seen.note(section, &Located { value: address.clone(), span: text.span.clone() }, "server", text);
            Some(address)
        }
        Err((label, help)) => {
            section.diagnostics.push(
                Diagnostic::error(text.span.clone(), format!("{} is not the address of a server", quote(text)))
                    .label(label)
                    .help(help),
            );
            None
        }
    }
}

/// Reads how a server is chosen.
pub(super) fn policy(section: &Section<'_>, folder: &FileLoader<'_>) -> Option<Balance> {
    const FORMS: &str = "write \"least_sessions\", \"round_robin\", \"sticky_cookie\", or \"hash:\" and one of subject, \
                         address, cookie:NAME, query:NAME, header:NAME, path:NAME";
    let cookie = cookie::read(section, folder);
    let text = section.text(&keys::BALANCE)?;
    if text.as_str() == "sticky_cookie" {
        return Some(Balance::StickyCookie(Box::new(cookie?)));
    }
    cookie::note_unused(section);
    let label = match text.as_str() {
        "least_sessions" => return Some(Balance::LeastSessions),
        "round_robin" => return Some(Balance::RoundRobin),
        other => match other.strip_prefix("hash:").map(hash_source) {
            Some(Ok(source)) => return Some(Balance::Hash(source)),
            Some(Err(label)) => label,
            None => "not a way to choose a server",
        },
    };
    section.diagnostics.push(
        Diagnostic::error(text.span.clone(), format!("{} cannot be the value of `balance`", quote(&text)))
            .label(label)
            .help(FORMS),
    );
    None
}

/// Reads the rate at which the sessions of a server that drains are closed.
pub(super) fn drain_rate(section: &Section<'_>) -> Option<ClosingRate> {
    section.rate(&keys::DRAIN_RATE).map(|rate| ClosingRate { count: rate.count, period: rate.period })
}

/// Reads how many sessions overloaded servers shed. The client of a closed session must not return to the same server.
pub(super) fn rebalance(section: &Section<'_>, balance: Option<&Balance>) -> Parsed<Option<Rebalance>> {
    let Kind::PercentRate(off) = keys::REBALANCE.kind else { return None };
    let read = section.unit(&keys::REBALANCE, "a share in a time such as \"5%/m\"", off, units::percent_rate)?;
    let Some((percent, period)) = read.value else { return Some(None) };
    if let None | Some(Balance::LeastSessions | Balance::RoundRobin) = balance {
        return Some(Some(Rebalance { percent, period }));
    }
    section.diagnostics.push(
        Diagnostic::error(read.span, "`rebalance` has no effect with this value of `balance`")
            .label("a client whose session is closed returns to the same server")
            .help("remove `rebalance`, or set `balance` to \"least_sessions\" or \"round_robin\""),
    );
    None
}

/// The settings of requests that wait for a server, with the names in [`UpstreamConfig`](crate::balance::UpstreamConfig).
pub(super) struct Waiting {
    pub(super) hold_upgrades: Option<Duration>,
    pub(super) admit_rate: Option<AdmitRate>,
    pub(super) queue_max: u32,
    pub(super) queue_timeout: Duration,
}

/// Reads how requests wait for a server.
pub(super) fn waiting(section: &Section<'_>) -> Option<Waiting> {
    let hold_upgrades = section.duration_or_off(&keys::HOLD_UPGRADES);
    let admit_rate = section.rate_or_off(&keys::ADMIT_RATE);
    let queue_max = section.integer(&keys::QUEUE_MAX);
    let queue_timeout = section.duration(&keys::QUEUE_TIMEOUT);
    let (hold_upgrades, queue_max) = (hold_upgrades?, queue_max?);
    if hold_upgrades.value.is_some() && queue_max.value == 0 {
        let message = "`hold_upgrades` needs a queue";
        section.diagnostics.push(
            Diagnostic::error(hold_upgrades.span, message)
                .label("a request that is held waits in the queue")
                .related(queue_max.span, "this permits none"),
        );
        return None;
    }
    let rate = |Rate { count, period }| AdmitRate { count, period };
    Some(Waiting {
        hold_upgrades: hold_upgrades.value,
        admit_rate: admit_rate?.value.map(rate),
        queue_max: queue_max.value,
        queue_timeout: queue_timeout?,
    })
}

/// Reads `[upstream.NAME.health]`.
pub(super) fn health(section: &Section<'_>) -> Option<HealthConfig> {
    let health = section.child("upstream.health");
    let checks = checks(&health);
    let eject_after = health.count_or_off(&keys::EJECT_AFTER);
    let eject_max = health.percent_or_off(&keys::EJECT_MAX);
    let slow_start = health.duration(&keys::SLOW_START);
    Some(HealthConfig {
        checks: checks?,
        eject_after: eject_after?.value,
        eject_max_percent: eject_max?.value?,
        slow_start: slow_start?,
    })
}

fn checks(health: &Section<'_>) -> Parsed<Option<CheckConfig>> {
    let check = check(health);
    let interval = health.duration(&keys::CHECK_INTERVAL);
    let (rise, fall) = (health.count(&keys::RISE), health.count(&keys::FALL));
    let (interval, rise, fall) = (interval?, rise?.value, fall?.value);
    Some(check?.map(|check| CheckConfig { check, interval, rise, fall }))
}

/// Reads how servers are checked; `None` within if they are not.
fn check(health: &Section<'_>) -> Parsed<Option<Check>> {
    let text = health.text(&keys::CHECK)?;
    let parsed = match text.as_str() {
        "off" => return Some(None),
        "tcp" => return Some(Some(Check::Tcp)),
        other => match other.split_once(':') {
            Some(("http", path)) => check_path(path).map(Check::Http),
            Some(("websocket", path)) => check_path(path).map(Check::WebSocket),
            _ => Err("not a check"),
        },
    };
    let label = match parsed {
        Ok(check) => return Some(Some(check)),
        Err(label) => label,
    };
    health.diagnostics.push(
        Diagnostic::error(text.span.clone(), format!("{} cannot be the value of `check`", quote(&text)))
            .label(label)
            .help("write \"tcp\", \"http:/path\", \"websocket:/path\" or \"off\""),
    );
    None
}

/// Parses the path and the query of a check. The error is the label at the caret.
fn check_path(text: &str) -> Result<PathAndQuery, &'static str> {
    if !text.starts_with('/') {
        return Err("the path must start with a slash");
    }
    let is_clean = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let parsed = text.parse().ok().filter(|_| is_clean);
    parsed.ok_or("the path must contain only characters that are valid in a path and its query")
}

/// Parses the part after `hash:`. The error is the label at the caret.
fn hash_source(text: &str) -> Result<HashSource, &'static str> {
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    let is_placeholder = |name: &str| {
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.starts_with(|first: char| !first.is_ascii_digit())
    };
    match (kind, name) {
        ("subject", "") => Ok(HashSource::Subject),
        ("address", "") => Ok(HashSource::Address),
        ("subject" | "address", _) => Err("this source has no name"),
        ("cookie" | "query" | "header" | "path", "") => Err("the name is missing"),
        ("cookie" | "query", _) => match text.parse() {
            Ok(TokenSource::Cookie(name)) => Ok(HashSource::Cookie(name)),
            Ok(TokenSource::Query(name)) => Ok(HashSource::Query(name)),
            _ => Err("not the name of a cookie or a query parameter"),
        },
        ("header", name) => HeaderName::try_from(name).map(HashSource::Header).map_err(|_| "not the name of a header"),
        ("path", name) if is_placeholder(name) => Ok(HashSource::Path(name.to_owned())),
        ("path", _) => Err("not the name of a placeholder, which is written without braces"),
        _ => Err("not a part of a request"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_hashes() {
        let name = str::to_owned;
        let valid = [
            ("subject", HashSource::Subject),
            ("address", HashSource::Address),
            ("cookie:sid", HashSource::Cookie(name("sid"))),
            ("query:doc", HashSource::Query(name("doc"))),
            ("header:X-Shard", HashSource::Header(HeaderName::from_static("x-shard"))),
            ("path:room", HashSource::Path(name("room"))),
        ];
        for (text, expected) in valid {
            assert_eq!(hash_source(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "subject:",
            "room",
            "subject:a",
            "cookie",
            "cookie:",
            "cookie:a b",
            "query:a=b",
            "header:a b",
            "path:{a}",
        ] {
            assert_eq!(hash_source(text).is_err(), text != "subject:", "{text}");
        }
    }
}
