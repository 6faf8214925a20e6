//! End-to-end tests of the binary. Each test starts it as a child process and acts as both client and upstream, so that
//! either end can misbehave in any way. There is one file per topic; `support` holds the shared parts.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

mod support;

mod refresh;
mod refusals;
mod reload;
mod keys;
mod admin;
mod upgrade_refusals;
mod dashboard;
mod revocation;
mod logout;
mod requests;
mod http;
mod http_bodies;
mod http_clients;
mod http_connections;
mod http_framing;
mod closes;
mod closing;
mod deadlines;
mod draining;
mod ending;
mod expiry;
mod passing;
mod proxies;
mod plain;
mod redirect;
mod handover;
mod headers;
mod rewrite;
mod to_proxied;
mod forward;
mod claims;
mod log_lines;
mod metering;
mod limits;
mod abuse;
mod operations;
mod service;
mod acme;
mod snapshots;
mod losses;
mod metrics;
mod slow_clients;
mod upstreams;
mod upstream_tls;
mod checks;
mod stalls;
mod queue;
mod sticky;
mod discovery;
mod tls;
