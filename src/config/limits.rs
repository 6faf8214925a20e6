//! Reads the `[route.limits]` section, and the quotas of other sections.

use std::num::NonZeroU32;
use std::time::Duration;

use super::diagnostic::{Diagnostic, Span};
use super::file::{Located, Parsed, Section};
use super::keys::{self, Key};
use crate::policy::limits::{
    ByteQuota, LimitMode, Limits, MessageQuota, OnExcess, OnSessionLimit, OnSlowClient, RateKey, RequestQuota,
};
use crate::policy::quota::{Quota, Rate};

/// Reads the limits of a route. `nameless` says why its sessions have no subject, if they have none.
/// `has_http`: it serves ordinary requests.
pub(super) fn read(section: &Section<'_>, nameless: Option<&str>, has_http: bool) -> Option<Limits> {
    let mode = section.choice(&keys::LIMIT_MODE, &[("enforce", LimitMode::Enforce), ("report", LimitMode::Report)]);
    let rates = rates(section, nameless);
    let overhead_rate = section.rate_or_off(&keys::OVERHEAD_RATE);
    let overhead_burst = section.count(&keys::OVERHEAD_BURST);
    let (message_max, frame_max) = sizes(section);
    let upstream_message_max = section.size_or_off(&keys::UPSTREAM_MESSAGE_MAX_SIZE);
    let per_subject = optional_count(section, &keys::SESSIONS_PER_SUBJECT);
    if let (Some(reason), Some(span)) = (nameless, section.key_span(&keys::SESSIONS_PER_SUBJECT)) {
        no_subject(section, "sessions_per_subject", reason, span);
    }
    let per_address = optional_count(section, &keys::SESSIONS_PER_ADDRESS);
    let on_session_limit = on_session_limit(section);
    let idle_timeout = section.duration_or_off(&keys::IDLE_TIMEOUT);
    let ping_interval = section.duration_or_off(&keys::PING_INTERVAL);
    let upstream_ping_interval = section.duration_or_off(&keys::UPSTREAM_PING_INTERVAL);
    let pong_timeout = section.duration(&keys::PONG_TIMEOUT);
    let close_timeout = section.duration(&keys::CLOSE_TIMEOUT);
    let write_timeout = section.duration(&keys::WRITE_TIMEOUT);
    let on_slow_client = on_slow_client(section);
    let check_utf8 = section.flag(&keys::CHECK_UTF8);
    let max_session_age = section.duration_or_off(&keys::MAX_SESSION_AGE);
    let request_rate = section.rate_or_off(&keys::REQUEST_RATE);
    let request_max = section.size_or_off(&keys::REQUEST_MAX_SIZE);
    if !has_http {
        for key in [&keys::REQUEST_RATE, &keys::REQUEST_MAX_SIZE] {
            warn_without_http(section, key);
        }
    }

    let (idle_timeout, ping_interval) = (idle_timeout?, ping_interval?);
    warn_of_late_ping(section, &idle_timeout, &ping_interval);
    let (messages, bytes, key) = rates?;
    warn_of_small_burst(section, bytes, frame_max?);
    Some(Limits {
        mode: mode?.value,
        messages,
        bytes,
        overhead: Quota { rate: overhead_rate?.value?, burst: overhead_burst?.value },
        message_max_bytes: message_max?,
        frame_max_bytes: frame_max?,
        upstream_message_max_bytes: upstream_message_max?.value,
        sessions_per_subject: per_subject?,
        sessions_per_address: per_address?,
        on_session_limit: on_session_limit?,
        idle_timeout: idle_timeout.value,
        ping_interval: ping_interval.value,
        upstream_ping_interval: upstream_ping_interval?.value,
        pong_timeout: pong_timeout?,
        close_timeout: close_timeout?,
        write_timeout: write_timeout?,
        on_slow_client: on_slow_client?,
        check_utf8: check_utf8?.value,
        max_session_age: max_session_age?.value,
        requests: request_rate?.value.map(|rate| RequestQuota { quota: Quota { rate, burst: rate.count }, key }),
        request_max_bytes: request_max?.value,
    })
}

/// Combines a rate with its burst, which is by default the count of the rate. The quota is `None` if the rate is off.
pub(super) fn quota(
    section: &Section<'_>,
    rate: &Located<Option<Rate>>,
    burst_key: &Key,
    rate_key: &Key,
) -> Parsed<Option<Quota>> {
    let written = section.key_span(burst_key);
    let burst = section.count(burst_key);
    let Some(rate) = rate.value else {
        return needs_rate(section, burst_key, rate_key).then_some(None);
    };
    match (burst, written) {
        (Some(burst), _) => Some(Some(Quota { rate, burst: burst.value })),
        (None, None) => Some(Some(Quota { rate, burst: rate.count })),
        (None, Some(_)) => None,
    }
}

/// Warns of a key that has no effect without `http = true`.
fn warn_without_http(section: &Section<'_>, key: &Key) {
    let Some(span) = section.key_span(key) else { return };
    let message = format!("`{}` has no effect without `http = true`", key.name);
    section.diagnostics.push(Diagnostic::warning(span, message).label("this route serves no ordinary requests"));
}

/// Reports a key that has no effect without a rate. Returns whether the key is absent.
fn needs_rate(section: &Section<'_>, key: &Key, rate_key: &Key) -> bool {
    needs_one_of(section, key, &[rate_key])
}

/// Reports a key that has no effect without one of these keys. Returns whether the key is absent.
fn needs_one_of(section: &Section<'_>, key: &Key, needed: &[&Key]) -> bool {
    let Some(span) = section.key_span(key) else { return true };
    if needed.iter().any(|needed| section.has_misspelt(needed)) {
        // That the other key is unknown was reported.
        return false;
    }
    let names = |joint: &str| needed.iter().map(|key| format!("`{}`", key.name)).collect::<Vec<_>>().join(joint);
    let label = match needed {
        [_] => format!("there is no {} here", names("")),
        _ => format!("there is neither {} here", names(" nor ")),
    };
    section
        .diagnostics
        .push(Diagnostic::error(span, format!("`{}` has no effect without {}", key.name, names(" or "))).label(label));
    false
}

fn on_session_limit(section: &Section<'_>) -> Option<OnSessionLimit> {
    let actions = [("refuse", OnSessionLimit::Refuse), ("close_oldest", OnSessionLimit::CloseOldest)];
    let on_session_limit = section.choice(&keys::ON_SESSION_LIMIT, &actions)?;
    let limits = [&keys::SESSIONS_PER_SUBJECT, &keys::SESSIONS_PER_ADDRESS];
    let has_limit = limits.iter().any(|key| section.key_span(key).is_some());
    (has_limit || needs_one_of(section, &keys::ON_SESSION_LIMIT, &limits)).then_some(on_session_limit.value)
}

fn on_slow_client(section: &Section<'_>) -> Option<OnSlowClient> {
    let size = section.size_or_off(&keys::SLOW_CLIENT_BUFFER);
    let written = section.key_span(&keys::SLOW_CLIENT_BUFFER);
    let buffer_bytes = size.as_ref().and_then(|size| size.value);
    let drop_oldest = OnSlowClient::DropOldest { buffer_bytes: buffer_bytes.unwrap_or_default() };
    let actions = [("block", OnSlowClient::Block), ("close", OnSlowClient::Close), ("drop_oldest", drop_oldest)];
    let on_slow_client = section.choice(&keys::ON_SLOW_CLIENT, &actions)?.value;
    match written {
        Some(span) if on_slow_client != drop_oldest => {
            let message = "`slow_client_buffer` has no effect without `on_slow_client = \"drop_oldest\"`";
            let label = format!("`on_slow_client` is {:?} here", on_slow_client.label());
            section.diagnostics.push(Diagnostic::error(span, message).label(label));
            None
        }
        _ => size.map(|_| on_slow_client),
    }
}

/// Reads the quotas of messages and of bytes.
fn rates(section: &Section<'_>, nameless: Option<&str>) -> Option<(Option<MessageQuota>, Option<ByteQuota>, RateKey)> {
    let (message_rate, byte_rate) =
        (section.rate_or_off(&keys::MESSAGE_RATE), section.byte_rate_or_off(&keys::BYTE_RATE));
    let keys_of_rate = [("session", RateKey::Session), ("subject", RateKey::Subject), ("address", RateKey::Address)];
    let key = section.choice(&keys::RATE_KEY, &keys_of_rate);
    let actions = [("close", OnExcess::Close), ("delay", OnExcess::Delay), ("drop", OnExcess::Drop)];
    let on_excess = section.choice(&keys::ON_EXCESS, &actions);

    let messages = message_rate.as_ref().map(|rate| quota(section, rate, &keys::MESSAGE_BURST, &keys::MESSAGE_RATE));
    let bytes = byte_rate.as_ref().map(|rate| byte_quota(section, rate));
    let (message_rate, byte_rate, key, on_excess) = (message_rate?, byte_rate?, key?, on_excess?);
    if let (Some(reason), RateKey::Subject) = (nameless, key.value) {
        no_subject(section, "rate_key", reason, key.span.clone());
    }
    if message_rate.value.is_none() && byte_rate.value.is_none() {
        let rates = [&keys::MESSAGE_RATE, &keys::BYTE_RATE];
        let has_requests = section.key_span(&keys::REQUEST_RATE).is_some();
        let key_alone = has_requests || needs_one_of(section, &keys::RATE_KEY, &rates);
        if !(needs_one_of(section, &keys::ON_EXCESS, &rates) && key_alone) {
            return None;
        }
    }
    let (key, on_excess) = (key.value, on_excess.value);
    Some((
        messages??.map(|quota| MessageQuota { quota, key, on_excess }),
        bytes??.map(|quota| ByteQuota { quota, key, on_excess }),
        key,
    ))
}

/// Combines the rate of bytes with its burst, which is by default the size of the rate.
fn byte_quota(section: &Section<'_>, rate: &Located<Option<Rate>>) -> Parsed<Option<Quota>> {
    let written = section.key_span(&keys::BYTE_BURST).is_some();
    let burst = section.size_or_off(&keys::BYTE_BURST).and_then(|burst| burst.value);
    let Some(rate) = rate.value else {
        return needs_rate(section, &keys::BYTE_BURST, &keys::BYTE_RATE).then_some(None);
    };
    let burst = if written { u32::try_from(burst?).ok().and_then(NonZeroU32::new)? } else { rate.count };
    Some(Some(Quota { rate, burst }))
}

fn no_subject(section: &Section<'_>, key: &str, reason: &str, span: Span) {
    section.diagnostics.push(
        Diagnostic::error(span, format!("`{key}` counts by subject, but {reason}"))
            .label("there is no subject, so all clients would count as one")
            .help("count by address: clients without a subject have nothing else in common"),
    );
}

/// Reads the maximum size of a message and that of a frame.
fn sizes(section: &Section<'_>) -> (Option<u64>, Option<u64>) {
    let message_max = section.size_or_off(&keys::MESSAGE_MAX_SIZE).and_then(|size| size.value);
    if section.key_span(&keys::FRAME_MAX_SIZE).is_none() {
        return (message_max, message_max);
    }
    let Some(frame_max) = section.size_or_off(&keys::FRAME_MAX_SIZE) else { return (message_max, None) };
    if frame_max.value > message_max && message_max.is_some() {
        section.diagnostics.push(
            Diagnostic::error(frame_max.span, "`frame_max_size` is larger than `message_max_size`")
                .label("no frame is larger than its message"),
        );
        return (message_max, None);
    }
    (message_max, frame_max.value)
}

/// Reads a count without a default.
fn optional_count(section: &Section<'_>, key: &Key) -> Parsed<Option<NonZeroU32>> {
    if section.key_span(key).is_none() {
        return Some(None);
    }
    section.count(key).map(|count| Some(count.value))
}

/// Warns of frames that are small enough for the route and exceed every quota of bytes.
fn warn_of_small_burst(section: &Section<'_>, bytes: Option<ByteQuota>, frame_max_bytes: u64) {
    let Some(ByteQuota { quota, on_excess, .. }) = bytes else { return };
    if u64::from(quota.burst.get()) >= frame_max_bytes {
        return;
    }
    let effect = match on_excess {
        // A larger frame passes in parts.
        OnExcess::Delay => return,
        OnExcess::Close => "a larger frame always closes its session",
        OnExcess::Drop => "a message that begins with a larger frame is always dropped",
    };
    let written = section.key_span(&keys::BYTE_BURST);
    let label = if written.is_some() { effect.to_owned() } else { format!("also the default of the burst: {effect}") };
    let Some(span) = written.or_else(|| section.key_span(&keys::BYTE_RATE)) else { return };
    let size = [&keys::FRAME_MAX_SIZE, &keys::MESSAGE_MAX_SIZE].into_iter().find(|key| section.key_span(key).is_some());
    let size = size.unwrap_or(&keys::MESSAGE_MAX_SIZE).name;
    section.diagnostics.push(
        Diagnostic::warning(span, format!("`byte_burst` is smaller than `{size}`"))
            .label(label)
            .help("make the burst larger or the size smaller, or delay: then a larger frame passes in parts"),
    );
}

fn warn_of_late_ping(
    section: &Section<'_>,
    idle_timeout: &Located<Option<Duration>>,
    ping_interval: &Located<Option<Duration>>,
) {
    // The operator did not choose the default, so only an interval in the file is worth a warning.
    let written = section.key_span(&keys::PING_INTERVAL).is_some();
    if let (true, Some(idle), Some(ping)) = (written, idle_timeout.value, ping_interval.value)
        && ping > idle
    {
        section.diagnostics.push(
            Diagnostic::warning(ping_interval.span.clone(), "`ping_interval` is longer than `idle_timeout`")
                .label("a silent session ends before its first ping"),
        );
    }
}
