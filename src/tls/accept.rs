//! The TLS handshake: rustls runs it, and a TLS 1.3 connection can leave rustls right after it.
//!
//! When its secrets are extracted, rustls drops the bytes that it has read but not opened. It is therefore given one
//! record at a time: the bytes after the client's `Finished`, mostly the request, are left for our own record layer.
//! The ticket that rustls issues after the handshake is sent together with the first answer, which saves a packet.

use std::cell::Cell;
use std::io;
use std::mem;
use std::sync::Arc;

use rustls::{ConnectionTrafficSecrets, KeyLog, ServerConfig, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use super::challenge::{self, ChallengeAnswered};
use super::sealed::{Leftover, SealedStream};
use super::summary::TlsSummary;
use crate::client::acme::challenge::ACME_TLS;
use crate::policy::proxy_header::{self, ProxyHeaderError};
use crate::record::{HEADER_LEN, Opener, Sealer, Suite, TrafficSecret};
use crate::runtime::socket::SocketStream;
use crate::runtime::tls_socket::{OUTPUT_MAX_BYTES, TlsSocket};

/// Limit on one receive. A `ClientHello` has 0.3 to 2 KiB. The client's last handshake messages with a request have
/// about 1 KiB.
const RECEIVE_BYTES: usize = 4096;

/// The TLS state of a connection after its handshake.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all connections have the large variant, which saves a box")]
pub(super) enum Protected {
    /// Our own record layer.
    Own(SealedStream),
    /// rustls, for TLS 1.2 or if the configuration selects it. Its state is several times as large.
    Rustls(Box<TlsStream<TlsSocket>>),
    /// No TLS.
    Plain(TlsSocket),
}

/// Configures a listener for connections that leave rustls.
pub(super) fn enable_secret_extraction(config: &mut ServerConfig) {
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(SecretCapture);
}

/// Runs the handshake.
///
/// # Errors
/// If the client disconnects, or the handshake fails: with a [`ProxyHeaderError`] if the client sent a PROXY header.
pub(super) async fn accept(
    config: &Arc<ServerConfig>,
    mut stream: SocketStream,
) -> io::Result<(Protected, TlsSummary)> {
    let mut connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    connection.set_buffer_limit(Some(OUTPUT_MAX_BYTES));
    let (mut received, mut secrets, mut is_start) = (Received::new(), Secrets::default(), true);
    while connection.is_handshaking() {
        let Some(part) = received.take() else {
            received.receive(&mut stream).await?;
            continue;
        };
        let fed = feed(&mut connection, part, &mut secrets, &stream);
        if mem::take(&mut is_start) && fed.is_err() && proxy_header::is_start(part) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, ProxyHeaderError::Unexpected));
        }
        fed?;
        if connection.is_handshaking() && connection.wants_write() {
            stream.write_all(&drain_output(&mut connection)?).await?;
        }
    }
    let summary = TlsSummary::of(&connection);
    if connection.alpn_protocol() == Some(ACME_TLS) {
        connection.send_close_notify();
        stream.write_all(&drain_output(&mut connection)?).await?;
        return Err(io::Error::other(ChallengeAnswered(summary)));
    }
    let final_flight = drain_output(&mut connection)?;
    if config.enable_secret_extraction && summary.is_tls13() {
        let leftover = Leftover { received: received.into_rest(), to_send: final_flight };
        return Ok((Protected::Own(take_over(stream, connection, &secrets, leftover)?), summary));
    }
    stream.write_all(&final_flight).await?;
    feed(&mut connection, &received.into_rest(), &mut secrets, &stream)?;
    // tokio-rustls builds its stream only from a handshake, so it is given one that is complete.
    let acceptor = TlsAcceptor::from(Arc::clone(config));
    let stream = acceptor.accept_with(TlsSocket::new(stream), |new| *new = connection).await?;
    Ok((Protected::Rustls(Box::new(stream)), summary))
}

/// Passes received bytes to rustls.
fn feed(
    connection: &mut ServerConnection,
    mut bytes: &[u8],
    secrets: &mut Secrets,
    stream: &SocketStream,
) -> io::Result<()> {
    while !bytes.is_empty() {
        if connection.read_tls(&mut bytes)? == 0 {
            // The client has sent `close_notify`.
            break;
        }
        // During this call rustls processes only this connection, so the secrets that it logs belong to it.
        CAPTURED.set(Some(mem::take(secrets)));
        let processed = connection.process_new_packets();
        *secrets = CAPTURED.take().unwrap_or_default();
        if let Err(error) = processed {
            // Send the alert only if the socket takes it at once.
            let _ = drain_output(connection).and_then(|mut alert| {
                challenge::name_missing_certificate(&mut alert);
                stream.try_write(&alert)
            });
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
    }
    Ok(())
}

/// Returns the pending output of rustls.
fn drain_output(connection: &mut ServerConnection) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut output)?;
    }
    Ok(output)
}

/// Takes the connection over from rustls after the handshake.
fn take_over(
    stream: SocketStream,
    connection: ServerConnection,
    secrets: &Secrets,
    leftover: Leftover,
) -> io::Result<SealedStream> {
    let suite = connection.negotiated_cipher_suite().and_then(|suite| Suite::from_code(suite.suite().into()));
    let suite = suite.ok_or_else(|| io::Error::other("an unknown cipher suite was negotiated"))?;
    let extracted = connection.dangerous_extract_secrets().map_err(io::Error::other)?;
    let direction = |secret: &[u8], keys: &ConnectionTrafficSecrets| {
        let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = keys
        else {
            return None;
        };
        // A secret that does not match the key in use would belong to another connection, and must never be used.
        TrafficSecret::new(suite, secret).filter(|secret| secret.gives(key.as_ref(), iv.as_ref()))
    };
    let directions = direction(&secrets.client, &extracted.rx.1).zip(direction(&secrets.server, &extracted.tx.1));
    let (read, write) = directions.ok_or_else(|| io::Error::other("the traffic secrets do not match the keys"))?;
    let (opener, sealer) = (Opener::new(read, extracted.rx.0), Sealer::new(write, extracted.tx.0));
    Ok(SealedStream::new(stream, opener, sealer, leftover))
}

/// The received bytes, which are passed to rustls one record at a time.
struct Received {
    bytes: Vec<u8>,
    taken: usize,
    /// Bytes of the current record that have not been taken.
    record_left: usize,
}

impl Received {
    fn new() -> Self {
        Self { bytes: Vec::with_capacity(RECEIVE_BYTES), taken: 0, record_left: 0 }
    }

    /// Receives once. At most a part of a header is left in the buffer, so it has free capacity.
    async fn receive(&mut self, stream: &mut SocketStream) -> io::Result<()> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        match stream.read_buf(&mut self.bytes).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Returns the next received bytes, at most to the end of their record.
    fn take(&mut self) -> Option<&[u8]> {
        let rest = self.bytes.get(self.taken..)?;
        if self.record_left == 0 {
            let [_, _, _, high, low, ..] = *rest else { return None };
            self.record_left = HEADER_LEN + usize::from(u16::from_be_bytes([high, low]));
        }
        let part = rest.get(..self.record_left.min(rest.len())).filter(|part| !part.is_empty())?;
        self.taken += part.len();
        self.record_left -= part.len();
        Some(part)
    }

    /// Returns the bytes that were received after the handshake.
    fn into_rest(mut self) -> Vec<u8> {
        self.bytes.drain(..self.taken);
        self.bytes
    }
}

/// The application traffic secrets of a connection.
#[derive(Default)]
struct Secrets {
    client: Zeroizing<Vec<u8>>,
    server: Zeroizing<Vec<u8>>,
}

thread_local! {
    /// The secrets of the connection that [`feed`] is processing on this thread; `None` outside of it.
    static CAPTURED: Cell<Option<Secrets>> = const { Cell::new(None) };
}

/// A key log that keeps the two secrets missing from [`rustls::ExtractedSecrets`]. Later key updates need them.
#[derive(Debug)]
struct SecretCapture;

impl KeyLog for SecretCapture {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let Some(mut secrets) = CAPTURED.take() else { return };
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => secrets.client = Zeroizing::new(secret.to_vec()),
            "SERVER_TRAFFIC_SECRET_0" => secrets.server = Zeroizing::new(secret.to_vec()),
            _ => {}
        }
        CAPTURED.set(Some(secrets));
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_rustls_never_cross_the_end_of_a_record() {
        let records = [&[22, 3, 1, 0, 3, 1, 2, 3][..], &[20, 3, 3, 0, 0], &[23, 3, 3, 0, 1, 9]].concat();
        let ends = [8, 13, 19];
        for step in 1..=records.len() {
            let (mut received, mut given) = (Received::new(), Vec::new());
            for chunk in records.chunks(step) {
                received.bytes.drain(..received.taken);
                received.taken = 0;
                received.bytes.extend_from_slice(chunk);
                while let Some(part) = received.take() {
                    let start = given.len();
                    given.extend_from_slice(part);
                    let crossed = ends.iter().any(|end| (start + 1..given.len()).contains(end));
                    assert!(!crossed, "{step}: {start}..{}", given.len());
                }
            }
            assert_eq!(given, records, "{step}");
            assert!(received.into_rest().is_empty());
        }
    }
}
