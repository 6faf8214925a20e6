//! TLS towards clients: the server's settings, the choice of a certificate, and the stream that the rest sees.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::handshake::{self, Protected};
use crate::config::{Certificate, RecordLayer};

/// The settings of one listener: TLS 1.2 and 1.3, HTTP/1.1 only, no early data, stateless tickets.
///
/// # Errors
/// If the system gives no random bytes for the ticket keys, or the library refuses its own defaults.
pub fn server_config(
    certificates: &[Certificate],
    record_layer: RecordLayer,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName::new(certificates)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Tickets carry the session themselves under keys that rotate, so that nothing is kept for clients that left; one
    // is enough, since a client that comes back is given another.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // An opening handshake must not be replayable (RFC 8446 section 8).
    config.max_early_data_size = 0;
    if record_layer == RecordLayer::Own {
        handshake::let_secrets_out(&mut config);
    }
    Ok(Arc::new(config))
}

/// Chooses the certificate by the name that the client asks for (RFC 6066 section 3).
#[derive(Debug)]
struct ByName {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By the domain behind `*.`; such a name stands for exactly one more label (RFC 6125 section 6.4.3).
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    /// The first one listed: for clients that ask for no name, or for one that no certificate has.
    fallback: Option<Arc<CertifiedKey>>,
}

impl ByName {
    fn new(certificates: &[Certificate]) -> Self {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for certificate in certificates {
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(domain) => (&mut wildcard, domain),
                    None => (&mut exact, name.as_str()),
                };
                map.entry(name.to_ascii_lowercase()).or_insert_with(|| Arc::clone(&certificate.key));
            }
        }
        Self { exact, wildcard, fallback: certificates.first().map(|first| Arc::clone(&first.key)) }
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let by_wildcard = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(&name).or_else(by_wildcard)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello.server_name().and_then(|name| self.find(name)).or(self.fallback.as_ref()).cloned()
    }
}

/// A client's connection after its TLS handshake: bytes in, bytes out. Nothing else tells how they are protected.
#[derive(Debug)]
pub struct ClientStream(Protected);

impl ClientStream {
    /// Does the TLS handshake.
    ///
    /// # Errors
    /// If the client breaks off, or the two cannot agree.
    pub async fn accept(config: &Arc<ServerConfig>, stream: TcpStream) -> io::Result<Self> {
        handshake::accept(config, stream).await.map(Self)
    }

    /// How many bytes the kernel has taken since the handshake, or at rustls since the connection began.
    pub fn written(&self) -> u64 {
        match &self.0 {
            Protected::Own(stream) => stream.written(),
            Protected::Rustls(stream) => stream.get_ref().0.written,
        }
    }

    /// Whether bytes were taken that the kernel has not; of rustls's it is not known before it is asked to flush.
    pub fn holds_back(&self) -> bool {
        match &self.0 {
            Protected::Own(stream) => stream.holds_back(),
            Protected::Rustls(_) => true,
        }
    }

    /// How many key updates came since this was called last. rustls does not say.
    pub fn take_key_updates(&mut self) -> u8 {
        match &mut self.0 {
            Protected::Own(stream) => stream.take_key_updates(),
            Protected::Rustls(_) => 0,
        }
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        match &self.0 {
            Protected::Own(stream) => stream.socket(),
            Protected::Rustls(stream) => stream.get_ref().0.get_ref(),
        }
    }

    /// Drops what can be made again, for a connection that is idle.
    pub fn hibernate(&mut self) {
        if let Protected::Own(stream) = &mut self.0 {
            stream.hibernate();
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Protected::Own(stream) => Pin::new(stream).poll_read(cx, buf),
            Protected::Rustls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Protected::Own(stream) => Pin::new(stream).poll_write(cx, bytes),
            Protected::Rustls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Protected::Own(stream) => Pin::new(stream).poll_flush(cx),
            Protected::Rustls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Protected::Own(stream) => Pin::new(stream).poll_shutdown(cx),
            Protected::Rustls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
