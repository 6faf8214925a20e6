//! Tollgate: a TLS-terminating WebSocket reverse proxy.

pub mod ws;
pub mod policy;
pub mod session;
pub mod config;
pub mod upstream;
pub mod proxy;
pub mod telemetry;
pub mod cli;
