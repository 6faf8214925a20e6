//! The settings of a listener for its connections.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use crate::client::acme::Challenges;
use crate::config::ListenAddress;
use crate::policy::forwarded::Scheme;
use crate::policy::peer::{Peer, PeerSet};

/// The settings of a listener for its connections.
#[derive(Debug)]
pub struct ConnectionConfig {
    /// The address that the listener is bound to, for the log.
    pub listener: ListenAddress,
    /// The TLS configuration; `None`: a plain listener.
    pub tls: Option<Arc<ServerConfig>>,
    /// The settings of a plain listener.
    pub plain: Option<PlainConfig>,
    /// The peers that must send a PROXY header.
    pub proxy_protocol_from: PeerSet,
    /// The peers whose headers name the client.
    pub trusted_proxies: PeerSet,
    /// Timeout for the PROXY header, the wait for a pending permit, the TLS handshake and the request head together.
    pub handshake_timeout: Duration,
    /// The maximum size of a request head, in bytes.
    pub head_max_bytes: usize,
    /// The maximum number of header fields in a request head.
    pub head_max_headers: usize,
    /// How long a connection stays open between two ordinary requests.
    pub keep_alive_timeout: Duration,
    /// How long a client may send nothing of the body of an ordinary request.
    pub body_timeout: Duration,
    /// The number of ordinary requests after which a connection closes.
    pub requests_per_connection: NonZeroU32,
}

/// The settings that only a plain listener has.
#[derive(Debug)]
pub struct PlainConfig {
    /// The ACME challenge in progress, which it answers.
    pub challenges: Arc<Challenges>,
    /// The port of `https` to which it redirects every other request; `None`: it serves them.
    pub https_port: Option<u16>,
}

impl ConnectionConfig {
    /// Returns the address under which the connections of a peer are counted. `None` for a trusted proxy, which carries
    /// the requests of many clients.
    pub fn counted(&self, peer: Peer) -> Option<IpAddr> {
        (!self.trusted_proxies.contains(peer)).then(|| peer.address())
    }

    /// Returns the scheme of a request that no trusted proxy forwards.
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }
}
