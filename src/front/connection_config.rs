//! The settings of a listener for its connections.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

/// The settings of a listener for its connections.
#[derive(Debug)]
pub struct ConnectionConfig {
    /// The TLS configuration.
    pub tls: Arc<ServerConfig>,
    /// Timeout for the wait for a pending permit, the TLS handshake and the request head together.
    pub handshake_timeout: Duration,
    /// The maximum size of a request head, in bytes.
    pub head_max_bytes: usize,
    /// The maximum number of header fields in a request head.
    pub head_max_headers: usize,
}
