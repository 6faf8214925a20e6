//! The server's end of a connection with TLS.

use std::io::{self, Read as _};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::gate::Gate;
use super::pki::{self, Leaf};
use super::request::Request;
use super::session::Client;
use super::upstream::{Server, Upstream};

/// The server's end of a connection after the handshake.
pub type TlsServer = Server<StreamOwned<ServerConnection, TcpStream>>;

/// Returns the configuration of a server with this certificate that accepts these versions. If `demands_certificate`,
/// its clients must have a certificate of the authority.
pub fn config(
    leaf: &Leaf,
    versions: &[&'static SupportedProtocolVersion],
    demands_certificate: bool,
) -> Arc<ServerConfig> {
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(pki::roots()), Arc::clone(&provider));
    let verifier = if demands_certificate { verifier.build().unwrap() } else { WebPkiClientVerifier::no_client_auth() };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf.der.clone()], PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Accepts the next connection, and does the handshake.
pub fn accept(upstream: &Upstream, config: &Arc<ServerConfig>) -> io::Result<TlsServer> {
    handshake(upstream.accept().stream, config)
}

/// Does the handshake on a connection. After a failure the proxy closes the connection.
pub fn handshake(mut stream: TcpStream, config: &Arc<ServerConfig>) -> io::Result<TlsServer> {
    stream.set_nodelay(true).unwrap();
    let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
    let mut run = || {
        while tls.is_handshaking() || tls.wants_write() {
            tls.complete_io(&mut stream)?;
        }
        io::Result::Ok(())
    };
    if let Err(error) = run() {
        // A close with unread bytes would reset the connection, and the alert could be lost.
        stream.shutdown(std::net::Shutdown::Write)?;
        let _ = stream.read_to_end(&mut Vec::new());
        return Err(error);
    }
    Ok(Server::new(StreamOwned::new(tls, stream), false))
}

/// Opens a session on the route without tokens, at a server with this configuration.
pub fn open(gate: &Gate, upstream: &Upstream, config: &Arc<ServerConfig>) -> (Client, TlsServer) {
    let mut client = Client::connect(gate);
    client.send(&Request::to("/open/").bytes());
    let mut server = accept(upstream, config).expect("the handshake with the proxy");
    server.open(&[]);
    assert_eq!(client.head().status(), 101);
    (client, server)
}
