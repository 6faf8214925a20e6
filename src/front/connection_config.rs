//! What a listener sets for its connections.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use crate::runtime::pending_limit::PendingLimit;

/// What a listener says of its connections.
#[derive(Debug)]
pub struct ConnectionConfig {
    /// TLS's settings.
    pub tls: Arc<ServerConfig>,
    /// How long the TLS handshake and the request head may take together.
    pub handshake_timeout: Duration,
    /// The largest request head.
    pub head_max_bytes: usize,
    /// The most header fields in it.
    pub head_max_headers: usize,
    /// The places for connections that leave after a refusal.
    pub pending_limit: Arc<PendingLimit>,
}
