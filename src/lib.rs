//! Tollgate: a TLS-terminating WebSocket reverse proxy.

#![cfg_attr(not(test), warn(clippy::expect_used, clippy::unwrap_used))]

pub mod ws;
pub mod policy;
pub mod session;
pub mod config;
pub mod upstream;
pub mod proxy;
pub mod telemetry;
pub mod cli;
