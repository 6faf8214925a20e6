//! The answers of the API as JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use x509_cert::der::DateTime;

use crate::policy::limits::{LimitAction, LimitKind, Limits, RateKey};
use crate::policy::quota::Quota;
use crate::relay::description::SessionInfo;
use crate::runtime::clock;
use crate::server::control::SessionEntry;
use crate::server::reload::ReloadSummary;

/// One page of a list of sessions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionPage {
    /// The sessions, in the requested order.
    pub(super) sessions: Vec<Session>,
    /// The number of all sessions that match, on this page or not.
    pub(super) total: usize,
    /// The cursor of the next page; null on the last one.
    pub(super) cursor: Option<String>,
    /// The ids of the nodes that did not answer in time, whose sessions are missing; only with `scope=cluster`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) missing: Option<Vec<String>>,
}

/// A session. "In" is the direction from the client to the upstream.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Session {
    /// The id of its node; only with `scope=cluster`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<String>,
    /// The request id, 32 hexadecimal digits.
    id: String,
    /// The name of the route.
    route: String,
    /// The name of the `[auth]` section; null for a route without authentication.
    auth: Option<String>,
    /// The subject of the token.
    subject: Option<String>,
    /// The client's address.
    address: String,
    /// The name of the upstream.
    upstream: String,
    /// The upstream's server.
    server: String,
    /// The host of the request.
    host: Option<String>,
    /// The path of the request.
    path: Option<String>,
    /// The `Origin` of the request.
    origin: Option<String>,
    /// The TLS version of the client's connection, unless it has no TLS.
    tls_version: Option<Cow<'static, str>>,
    /// Its cipher suite, unless it has no TLS.
    cipher: Option<Cow<'static, str>>,
    /// The TLS version of the connection to the upstream, unless it has no TLS.
    upstream_tls_version: Option<Cow<'static, str>>,
    /// The time of the 101 (RFC 3339), unless the clock of the machine is wrong.
    started: Option<String>,
    /// Seconds since the 101.
    age_seconds: f64,
    /// Seconds since the last message.
    idle_seconds: f64,
    /// The activity: `open`, `throttled`, `closing` or `lingering`.
    #[schema(pattern = "^(open|throttled|closing|lingering)$")]
    activity: Cow<'static, str>,
    /// Messages from the client.
    messages_in: u64,
    /// Bytes of frames from the client, with headers.
    bytes_in: u64,
    /// Messages from the upstream.
    messages_out: u64,
    /// Bytes of frames from the upstream, with headers.
    bytes_out: u64,
    /// Messages with which the client exceeded its rate, and frames with which a side exceeded its byte rate.
    throttled: u64,
    /// Messages of the upstream that were dropped because the client was too slow.
    dropped: u64,
    /// The limits that would have acted, where limits are only reported, and how often.
    reported: BTreeMap<Cow<'static, str>, u64>,
    /// Traffic per second, over the last 10 seconds.
    rates: Rates,
    /// Bytes from the client that wait for the upstream.
    buffered_in_bytes: usize,
    /// Bytes from the upstream that wait for the client.
    buffered_out_bytes: usize,
    /// The next deadline if neither side sends anything.
    next_deadline: Option<Deadline>,
    /// The limits of the session; only in the answer about one session.
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    limits: Option<SessionLimits>,
}

/// Traffic per second.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Rates {
    messages_in: f64,
    bytes_in: f64,
    messages_out: f64,
    bytes_out: f64,
}

/// A point in time at which a session acts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Deadline {
    /// Seconds from now.
    in_seconds: f64,
    /// The kind of the deadline, such as `idle_timeout`.
    kind: Cow<'static, str>,
}

/// The limits of a session, named as in the configuration. Null: unlimited.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionLimits {
    /// `enforce` or `report`.
    mode: &'static str,
    message_rate: Option<MessageRate>,
    byte_rate: Option<ByteRate>,
    overhead_rate: Rate,
    message_max_bytes: u64,
    frame_max_bytes: u64,
    upstream_message_max_bytes: Option<u64>,
    sessions_per_subject: Option<u32>,
    sessions_per_address: Option<u32>,
    /// `refuse` or `close_oldest`.
    on_session_limit: &'static str,
    idle_timeout_seconds: Option<f64>,
    ping_interval_seconds: Option<f64>,
    upstream_ping_interval_seconds: Option<f64>,
    pong_timeout_seconds: f64,
    close_timeout_seconds: f64,
    write_timeout_seconds: f64,
    /// `block`, `close` or `drop_oldest`.
    on_slow_client: &'static str,
    /// The memory for messages that wait, with `drop_oldest`.
    slow_client_buffer_bytes: Option<u64>,
    check_utf8: bool,
    max_session_age_seconds: Option<f64>,
}

/// A rate.
#[derive(Debug, Serialize, ToSchema)]
struct Rate {
    /// The number in each period.
    count: u32,
    /// The period in seconds.
    period_seconds: f64,
    /// The number at once.
    burst: u32,
}

/// The rate of messages from the client.
#[derive(Debug, Serialize, ToSchema)]
struct MessageRate {
    /// The rate.
    rate: Rate,
    /// The key by which messages are counted: `session`, `subject` or `address`.
    key: &'static str,
    /// The treatment of a message beyond it: `close`, `delay` or `drop`.
    on_excess: &'static str,
}

/// The rate of the bytes of frames, in each direction.
#[derive(Debug, Serialize, ToSchema)]
struct ByteRate {
    /// The bytes in each period.
    bytes: u32,
    /// The period in seconds.
    period_seconds: f64,
    /// The bytes at once.
    burst_bytes: u32,
    /// The key by which bytes are counted: `session`, `subject` or `address`.
    key: &'static str,
    /// The treatment of bytes beyond it: `close`, `delay` or `drop`.
    on_excess: &'static str,
}

/// The effect of a reload.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct Reload {
    /// Whether the configuration is in use now.
    pub(super) applied: bool,
    /// The generation of the configuration in use.
    pub(super) generation: u64,
    /// The number of sessions that keep their terms.
    pub(super) kept: usize,
    /// The number of sessions that get new limits.
    pub(super) changed: usize,
    /// The number of sessions that end, by cause.
    pub(super) ended: BTreeMap<&'static str, usize>,
    /// `recheck_max` in percent, if more sessions end than it allows: without `force` the reload is refused.
    pub(super) exceeds_recheck_max_percent: Option<u8>,
    /// The warnings of the configuration.
    pub(super) warnings: Vec<String>,
    /// The addresses that are listened on from now on.
    pub(super) listeners_added: Vec<String>,
    /// The addresses that are no longer listened on.
    pub(super) listeners_removed: Vec<String>,
}

/// The sessions that a change was sent to.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names are those of the fields in the API")]
pub(super) struct Selected {
    /// The number of sessions of this node.
    pub(super) selected: usize,
    /// The number of other nodes that it was sent to, too, for their sessions. Absent: the process shares its sessions with
    /// no cluster, or the other nodes were not reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nodes: Option<usize>,
    /// Why the other nodes were not reached: they do not get the change later. Absent: they were, or there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unreached: Option<&'static str>,
}

impl Selected {
    /// Describes a change of sessions of this node, and how many other nodes were told of it, if there is a cluster.
    pub(super) fn new(selected: usize, told: Option<std::result::Result<usize, &'static str>>) -> Self {
        let (nodes, unreached) = match told {
            Some(Ok(nodes)) => (Some(nodes), None),
            Some(Err(reason)) => (None, Some(reason)),
            None => (None, None),
        };
        Self { selected, nodes, unreached }
    }
}

impl Session {
    /// Describes a session, with its limits if `is_detailed`.
    pub(super) fn new(entry: &SessionEntry, info: &SessionInfo, is_detailed: bool) -> Self {
        let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        let SessionInfo { stats, rates, .. } = info;
        Self {
            node: None,
            id: entry.id.to_string(),
            route: entry.route.to_string(),
            auth: entry.auth.as_deref().map(str::to_owned),
            subject: entry.subject.as_deref().map(str::to_owned),
            address: entry.address.to_canonical().to_string(),
            upstream: entry.upstream.to_string(),
            server: entry.server.to_string(),
            host: text(&entry.host),
            path: text(&entry.path),
            origin: text(&entry.origin),
            tls_version: entry.tls_version.map(Cow::Borrowed),
            cipher: entry.cipher.map(Cow::Borrowed),
            upstream_tls_version: info.upstream_tls.map(Cow::Borrowed),
            started: clock::unix().and_then(|now| rfc3339(now.checked_sub(info.age)?)),
            age_seconds: seconds(info.age),
            idle_seconds: seconds(info.last_activity),
            activity: info.activity.label().into(),
            messages_in: stats.client.messages,
            bytes_in: stats.client.bytes,
            messages_out: stats.upstream.messages,
            bytes_out: stats.upstream.bytes,
            throttled: stats.throttled,
            dropped: info.dropped,
            reported: info.reported.iter().map(|(limit, count)| (limit.label().into(), *count)).collect(),
            rates: Rates {
                messages_in: rates.messages_in,
                bytes_in: rates.bytes_in,
                messages_out: rates.messages_out,
                bytes_out: rates.bytes_out,
            },
            buffered_in_bytes: info.buffered_in,
            buffered_out_bytes: info.buffered_out,
            next_deadline: info
                .next_deadline
                .map(|(time, kind)| Deadline { in_seconds: seconds(time), kind: kind.into() }),
            limits: is_detailed.then(|| SessionLimits::new(&info.limits)),
        }
    }
}

impl SessionLimits {
    pub(super) fn new(limits: &Limits) -> Self {
        let optional = |time: Option<Duration>| time.map(seconds);
        Self {
            mode: if limits.is_reporting() { "report" } else { "enforce" },
            message_rate: limits.messages.map(|messages| MessageRate {
                rate: Rate::new(messages.quota),
                key: key(messages.key),
                on_excess: LimitAction::from(messages.on_excess).label(),
            }),
            byte_rate: limits.bytes.map(|bytes| ByteRate {
                bytes: bytes.quota.rate.count.get(),
                period_seconds: seconds(bytes.quota.rate.period),
                burst_bytes: bytes.quota.burst.get(),
                key: key(bytes.key),
                on_excess: LimitAction::from(bytes.on_excess).label(),
            }),
            overhead_rate: Rate::new(limits.overhead),
            message_max_bytes: limits.message_max_bytes,
            frame_max_bytes: limits.frame_max_bytes,
            upstream_message_max_bytes: limits.upstream_message_max_bytes,
            sessions_per_subject: limits.sessions_per_subject.map(NonZeroU32::get),
            sessions_per_address: limits.sessions_per_address.map(NonZeroU32::get),
            on_session_limit: limits.action(LimitKind::SessionsPerAddress).label(),
            idle_timeout_seconds: optional(limits.idle_timeout),
            ping_interval_seconds: optional(limits.ping_interval),
            upstream_ping_interval_seconds: optional(limits.upstream_ping_interval),
            pong_timeout_seconds: seconds(limits.pong_timeout),
            close_timeout_seconds: seconds(limits.close_timeout),
            write_timeout_seconds: seconds(limits.write_timeout),
            on_slow_client: limits.on_slow_client.label(),
            slow_client_buffer_bytes: limits.on_slow_client.buffer_bytes(),
            check_utf8: limits.check_utf8,
            max_session_age_seconds: optional(limits.max_session_age),
        }
    }
}

fn key(key: RateKey) -> &'static str {
    match key {
        RateKey::Session => "session",
        RateKey::Subject => "subject",
        RateKey::Address => "address",
    }
}

impl Rate {
    fn new(quota: Quota) -> Self {
        let period_seconds = seconds(quota.rate.period);
        Self { count: quota.rate.count.get(), period_seconds, burst: quota.burst.get() }
    }
}

impl From<ReloadSummary> for Reload {
    fn from(summary: ReloadSummary) -> Self {
        Self {
            applied: summary.applied,
            generation: summary.generation,
            kept: summary.kept,
            changed: summary.changed,
            ended: summary.ended.into_iter().collect(),
            exceeds_recheck_max_percent: summary.exceeds_percent,
            warnings: summary.warnings,
            listeners_added: summary.listeners_added,
            listeners_removed: summary.listeners_removed,
        }
    }
}

/// Returns a span in seconds, to the millisecond.
#[expect(clippy::cast_precision_loss, reason = "a span in milliseconds fits the mantissa")]
pub(super) fn seconds(span: Duration) -> f64 {
    span.as_millis() as f64 / 1000.0
}

/// Formats a time since the Unix epoch. `None` after the year 9999.
pub(super) fn rfc3339(unix: Duration) -> Option<String> {
    DateTime::from_unix_duration(Duration::from_secs(unix.as_secs())).ok().map(|time| time.to_string())
}
