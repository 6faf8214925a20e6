//! Tollgate: a TLS-terminating WebSocket reverse proxy.

#![cfg_attr(not(test), warn(clippy::expect_used, clippy::unwrap_used))]
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
pub mod proxy;
pub mod telemetry;
pub mod cli;
