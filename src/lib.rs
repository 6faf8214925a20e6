//! Tollgate: a TLS-terminating WebSocket reverse proxy that decides who may come in, and meters what passes.
//!
//! # The map
//!
//! Three rings; a module may name those before it in this list, and none behind it.
//!
//! | module | ring | what it knows |
//! | --- | --- | --- |
//! | [`ws`] | pure | RFC 6455: opening handshake, frames, the rules of one direction, close codes |
//! | [`policy`] | pure | may this request pass, and on what terms: routes, origins, tokens, quotas, refusals |
//! | [`session`] | pure | one proxied WebSocket from its 101 to its end |
//! | [`record`] | pure | TLS 1.3 records after the handshake: opening, sealing, key updates, alerts |
//! | [`config`] | in | TOML: the only code that does |
//! | [`upstream`] | out | which server a session goes to, and how it is reached |
//! | [`telemetry`] | out | logs |
//! | [`proxy`] | out | sockets, TLS, HTTP: listener, worker, connection, upgrade, relay, and the drain |
//! | [`cli`] | out | the subcommands |
//!
//! The pure rings touch no socket, file or clock: bytes, facts and the time are arguments, decisions are what comes
//! back. So they are tested in virtual time, fuzzed without fakes, and read without knowing any runtime.
//!
//! # The path of a connection
//!
//! [`proxy::listener`] accepts it, on the [`proxy::worker`] that has the fewest. [`proxy::connection`] does the TLS handshake
//! and reads one request. [`proxy::upgrade`] answers it in five steps: what it asks ([`ws::handshake`]), whether it
//! may ([`policy::admission`]), what the upstream is asked ([`proxy::headers`]), what that answers ([`upstream::open`]), and
//! the 101. Then [`proxy::relay`] moves bytes as [`session::Session`] says, woken by its sockets and by the worker's
//! [`proxy::timers`], and the log gets one line at the end.
//!
//! An [`policy::admission::Admission`] has one maker, and neither opening an upstream nor relaying is possible without it.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::expect_used, clippy::unwrap_used))]
// Test helpers take what reads best at their many calls.
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
pub mod policy;
pub mod session;
pub mod record;
pub mod config;
pub mod upstream;
pub mod telemetry;
pub mod proxy;
pub mod cli;
