//! Reads the `[upstream.NAME]` sections.

use std::sync::Arc;

use super::balance;
use super::balance_warnings::note_all_drain;
use super::common::{NamedSection, name as check_name};
use super::diagnostic::{Diagnostic, quote};
use super::discover::{self, Servers};
use super::file::{Located, Section};
use super::files::FileLoader;
use super::{keys, upstream_tls};
use crate::balance::{UpstreamConfig, UpstreamLoss};
use crate::ws::code::CloseCode;

const UPSTREAMS_MAX: usize = 1024;

/// The default of `http_response_timeout` is `response_timeout` times this: a long poll waits for most of a minute.
const HTTP_RESPONSE_TIMES: u32 = 6;

/// Reads every upstream, in the order of the file.
pub(super) fn read_all(root: &Section<'_>, folder: &FileLoader<'_>) -> Vec<NamedSection<Option<UpstreamConfig>>> {
    let sections = root.named("upstream", UPSTREAMS_MAX);
    let read = |(name, section): (Located<&str>, Section<'_>)| {
        let upstream = read(&name, &section, folder);
        NamedSection { name: name.value.to_owned(), span: name.span, value: upstream }
    };
    sections.into_iter().map(read).collect()
}

fn read(name: &Located<&str>, section: &Section<'_>, folder: &FileLoader<'_>) -> Option<UpstreamConfig> {
    let valid_name = check_name(section, name, &name.span);
    let servers = discover::read(section, folder);
    note_all_drain(section, servers.as_ref().map_or(&[], |listed| &listed.servers));
    let base_path = base_path(section);
    let balance = balance::policy(section, folder);
    let health = balance::health(section);
    let tls = upstream_tls::read(section, folder, servers.as_ref());
    let connect_timeout = section.duration(&keys::CONNECT_TIMEOUT);
    let response_timeout = section.duration(&keys::RESPONSE_TIMEOUT);
    let http_response_timeout = if section.key_span(&keys::HTTP_RESPONSE_TIMEOUT).is_some() {
        section.duration(&keys::HTTP_RESPONSE_TIMEOUT)
    } else {
        response_timeout.map(|timeout| timeout * HTTP_RESPONSE_TIMES)
    };
    let retries = section.integer(&keys::RETRIES);
    let max_pending_requests = section.integer(&keys::MAX_PENDING_REQUESTS);
    let drain_rate = balance::drain_rate(section);
    let rebalance = balance::rebalance(section, balance.as_ref());
    let loss = loss(section);
    let waiting = balance::waiting(section);
    let proxy_protocol = section.flag(&keys::PROXY_PROTOCOL);
    let title_case_headers = section.flag(&keys::TITLE_CASE_HEADERS);
    valid_name?;
    let (waiting, Servers { servers, discover }) = (waiting?, servers?);
    Some(UpstreamConfig {
        name: Arc::from(name.value),
        servers,
        discover,
        balance: balance?,
        health: health?,
        tls: tls?,
        base_path: base_path?,
        connect_timeout: connect_timeout?,
        response_timeout: response_timeout?,
        http_response_timeout: http_response_timeout?,
        retries: retries?.value,
        max_pending_requests: max_pending_requests?.value,
        drain_rate: drain_rate?,
        rebalance: rebalance?,
        loss: loss?,
        hold_upgrades: waiting.hold_upgrades,
        admit_rate: waiting.admit_rate,
        queue_max: waiting.queue_max,
        queue_timeout: waiting.queue_timeout,
        proxy_protocol: proxy_protocol?.value,
        title_case_headers: title_case_headers?.value,
    })
}

fn loss(section: &Section<'_>) -> Option<UpstreamLoss> {
    let reconnect_spread = section.duration(&keys::RECONNECT_SPREAD);
    let code = section.integer(&keys::UPSTREAM_LOSS_CLOSE_CODE)?;
    let Some(close_code) =
        [CloseCode::BAD_GATEWAY, CloseCode::SERVICE_RESTART].into_iter().find(|known| u32::from(known.0) == code.value)
    else {
        let message = format!("`upstream_loss_close_code` must not be {}", code.value);
        section.diagnostics.push(Diagnostic::error(code.span, message).label("must be 1014 or 1012"));
        return None;
    };
    Some(UpstreamLoss { close_code, reconnect_spread: reconnect_spread? })
}

fn base_path(section: &Section<'_>) -> Option<String> {
    let text = section.text(&keys::BASE_PATH)?;
    let wrong = if text.is_empty() {
        None
    } else if !text.starts_with('/') {
        Some("must start with a slash")
    } else if text.ends_with('/') {
        Some("must not end with a slash: the path of the request starts with one")
    } else if text.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) {
        Some("must have no segments that are empty, `.` or `..`")
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}%".contains(&byte)) {
        Some("must contain only characters that are valid in a path, without percent-encoding")
    } else {
        None
    };
    let Some(label) = wrong else { return Some(text.value) };
    section
        .diagnostics
        .push(Diagnostic::error(text.span.clone(), format!("{} is not a base path", quote(&text))).label(label));
    None
}
