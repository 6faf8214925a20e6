//! Tollgate: a TLS-terminating WebSocket reverse proxy.

pub mod policy;
pub mod config;
pub mod ws;
