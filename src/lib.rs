//! Tollgate: a TLS-terminating WebSocket reverse proxy that admits clients by policy and meters their messages.
//!
//! # The modules
//!
//! The modules form three rings. A module imports only modules above it in this list, and no two files import each
//! other in a cycle; `tests/tidy.rs` checks both rules.
//!
//! | module | ring | responsibility |
//! | --- | --- | --- |
//! | [`ws`] | pure | RFC 6455 and 7692: opening handshake, frames, the rules of one direction, close codes |
//! | [`record`] | pure | the TLS 1.3 record layer after the handshake: open, seal, key updates, alerts |
//! | [`balance`] | pure | pools: the choice of a server, health, checks, retries |
//! | [`policy`] | pure | admission: routes, origins, tokens, revocations, quotas, rejections |
//! | [`session`] | pure | one proxied WebSocket from its 101 to its end |
//! | [`config`] | in | the only module that knows TOML |
//! | [`runtime`] | out | what workers provide: clock, random bytes, tasks, timers, pacing, guards, lifecycle |
//! | [`telemetry`] | out | the log, the table of metrics and their last hour, the last events |
//! | [`client`] | out | the HTTP client for key sets and forward auth |
//! | [`upstream`] | out | the servers: choice, connect, the opening handshake with them, and checks |
//! | [`cluster`] | out | Redis or Valkey: state that several nodes share |
//! | [`tls`] | out | certificates, the TLS handshake, the client's byte stream |
//! | [`relay`] | out | moves the bytes of one session |
//! | [`front`] | out | a connection: TLS, HTTP, one request, admission, upgrade |
//! | [`server`] | out | binds, starts workers, accepts, drains |
//! | [`handover`] | out | moves listeners and live sessions to a new process |
//! | [`admin`] | out | the admin API and the dashboard: sessions, events, reload, metrics, health |
//! | [`cli`] | out | the subcommands |
//!
//! The pure modules use no socket, file or clock: bytes, facts and the time are arguments, and decisions are results.
//! They are tested in virtual time and fuzzed without fakes.
//!
//! # The path of a connection
//!
//! [`server::accept`] accepts it on the [`server::worker`] with the fewest connections. [`front::identify`] reads the
//! PROXY header of a balancer. [`front::connection`] does the TLS handshake and reads one request, whose client
//! [`policy::forwarded`] finds. [`front::upgrade`] answers it in five steps: it parses the request
//! ([`ws::handshake`]), admits it ([`policy::admission`]), writes the headers for the upstream ([`front::headers`]),
//! chooses a server ([`balance::choice`]) and gets its response ([`upstream::open`]), and sends the 101. Then [`relay`] moves bytes as
//! [`session::Session`] decides, woken by the sockets and by the worker's [`runtime::timers`]. One log line is written
//! at the end.
//!
//! [`policy::admission::Admission`] has one constructor. Without an admission neither a request to an upstream nor a
//! relay is possible, except for a session that another process had admitted and has given up ([`policy::readmit`]). Only [`upstream::checks`] connects to servers without one, and sends nothing of a client.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::expect_used, clippy::unwrap_used))]
// Test helpers take the types that read best at their many call sites.
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::disallowed_methods,
        clippy::needless_pass_by_value,
        clippy::unnecessary_wraps
    )
)]

pub mod ws;
pub mod record;
pub mod balance;
pub mod policy;
pub mod session;
pub mod config;
pub mod runtime;
pub mod telemetry;
pub mod client;
pub mod upstream;
pub mod cluster;
pub mod tls;
pub mod relay;
pub mod front;
pub mod server;
pub mod handover;
pub mod admin;
pub mod cli;
